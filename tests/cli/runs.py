"""Runs of the command line in a folder of its own."""

import json
import os
from dataclasses import dataclass

import torch
from typer.testing import CliRunner

from infprune.cli.app import app

SMALL = ["data.calibration=256", "data.batch_size=64"]


@dataclass(frozen=True)
class Outcome:
    """`err`: without the lines of progress, whose number depends on the clock."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def call(*words):
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, [str(w) for w in words], env={**os.environ, "COLUMNS": "200"})
    torch.set_num_threads(threads)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    err = "".join(line for line in result.stderr.splitlines(keepends=True) if not line.startswith("progress stage="))
    return Outcome(result.exit_code, result.stdout, err)
