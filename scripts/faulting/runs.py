"""The command line in a forked process of its own: torch is imported once, in the parent."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import warm  # noqa: F401

from infprune.cli.app import main

SECONDS = 600  # a run may take: one of two, on a machine that others share and with coverage a minute
SMALL = ("data.calibration=128", "data.batch_size=64", "run.threads=1", "run.dir=run")
CHEAP = (*SMALL, "prune.scope=global", "prune.compensate=ls")
FORGETTING = (
    "unlearn.samples=64", "unlearn.max_iterations=4", "unlearn.lengths=[4,16]", "unlearn.applications=2",
    "unlearn.ratio=0.3",
)  # fmt: skip
TRACED = (
    "model.args={widths: [3, 4], kernel: 3, padding: 1, pixels: 8}", "trace.max_iterations=8", "trace.top=3",
    "trace.hessian_samples=60", "trace.finetune_samples=200", "run.threads=1", "run.dir=run",
)  # fmt: skip
SUBSETS = ("samples.subsets=3",)
BASE = "base.safetensors"  # a pruned file in the working directory


@dataclass(frozen=True)
class Run:
    """A command; `made`: the files that must be the same bytes at every end of it. `resumes`: it knows --resume."""

    words: tuple[str, ...]
    made: tuple[str, ...]
    resumes: bool = False


RUNS = {
    "score": Run(("score", *CHEAP), ("run/scores.safetensors", "run/config.yaml")),
    "prune": Run(
        ("prune", *CHEAP, "--finetune", "finetune.epochs=3"),
        ("run/pruned.safetensors", "run/config.yaml", "run/result.json"),
        resumes=True,
    ),
    "finetune": Run(
        ("finetune", BASE, "finetune.epochs=3", "finetune.optimizer=adamw", *SMALL),
        ("run/finetuned.safetensors", "run/config.yaml"),
        resumes=True,
    ),
    "train": Run(
        ("train", "train.epochs=4", "train.ema=0.9", *SMALL), ("run/model.safetensors", "run/config.yaml"), resumes=True
    ),
    "report": Run(
        ("report", "--rates", "0.3,0.6", "--criteria", "taylor,magnitude", "--seeds", "1", *CHEAP),
        ("run/report.json", "run/report.md", "run/report.png", "run/config.yaml"),
        resumes=True,
    ),
    "unlearn": Run(
        ("unlearn", "--forget", "class:3", "--retrain", "train.epochs=2", "finetune.epochs=2", *SMALL, *FORGETTING),
        ("run/unlearned.safetensors", "run/unlearn.json", "run/config.yaml"),
        resumes=True,
    ),
    "trace": Run(
        ("trace", "-c", "digits-two-stage", "train.epochs=3", "finetune.epochs=3", *TRACED),
        ("run/pretrain.safetensors", "run/finetune.safetensors", "run/trace.csv", "run/trace.json", "run/config.yaml"),
    ),
    "data score": Run(
        ("data", "score", "--method", "memorisation", "train.epochs=1", *SMALL, *SUBSETS),
        ("run/sample-scores.safetensors", "run/data-score.json", "run/config.yaml"),
        resumes=True,
    ),
    "export": Run(("export", BASE, "-o", "run/net.pt2", "run.threads=1"), ("run/net.pt2",)),
}


@dataclass(frozen=True)
class End:
    """How a run ended: its exit code, minus the signal that ended it, or None if it took too long."""

    code: int | None
    stderr: str
    seconds: float


def start(words: tuple[str, ...], folder: Path, log: Path, spoil: Callable[[], None] = lambda: None) -> int:
    """Fork a process that runs a command in a folder, after `spoil`; stderr and stdout go to a file. Returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["infprune", *words, "-q"]
        spoil()
        main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:  # noqa: BLE001 - nothing may reach what follows, which is the parent's
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def wait(child: int, log: Path, began: float) -> End:
    """Wait for a process; one that takes too long is killed."""
    while time.monotonic() < began + SECONDS:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return End(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), time.monotonic() - began)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return End(None, log.read_text(errors="replace"), SECONDS)


def run(words: tuple[str, ...], folder: Path, log: Path, spoil: Callable[[], None] = lambda: None) -> End:
    """Run a command to its end."""
    began = time.monotonic()
    return wait(start(words, folder, log, spoil), log, began)
