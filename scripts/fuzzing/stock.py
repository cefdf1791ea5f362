"""Sound files to damage, made once by the commands themselves."""

import os
import pickle
import tempfile
from functools import cache
from pathlib import Path

from typer.testing import CliRunner

from fuzzing.case import FAST
from infprune.cli.app import app

COMMANDS = (
    ["prune", "-o", "pruned.safetensors", *FAST],
    ["score", "-o", "scores.safetensors", *FAST, "prune.scope=calibrated"],
    ["train", "train.epochs=1", "train.ema=0.9", "run.dir=train", "run.threads=1"],
    ["finetune", "pruned.safetensors", "finetune.epochs=1", "finetune.optimizer=adamw", "run.dir=tune"],
    ["report", "--rates", "0.5", "--criteria", "magnitude", "--seeds", "1", "run.dir=report", *FAST],
)
FILES = (
    "pruned.safetensors",
    "scores.safetensors",
    "train/model.safetensors",
    "train/train.ckpt",
    "tune/finetune.ckpt",
    "report/measurements.json",
)


@cache
def stock() -> dict[str, bytes]:
    """The bytes of a sound file of each kind, by name.

    A forked process makes them: one that has differentiated leaves its forks unable to.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with tempfile.TemporaryDirectory() as folder, os.fdopen(writing, "wb") as out:
            os.chdir(folder)
            for words in COMMANDS:
                result = CliRunner().invoke(app, [*words, "-q"], catch_exceptions=False)
                assert result.exit_code == 0, result.stderr
            pickle.dump({Path(name).name: Path(name).read_bytes() for name in FILES}, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as made:
        found: dict[str, bytes] = pickle.load(made)  # noqa: S301 - our own child wrote it
    os.waitpid(child, 0)
    return found
