"""Faults other than a kill: each scenario yields None for a run that ended as it should, else what was wrong."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from PIL import Image
from torch import nn

from faulting.kills import Truth, again, said_one_line
from faulting.runs import BASE, CHEAP, RUNS, SMALL, End, run, start, wait
from faulting.whole import left, torn

INTERRUPTED = 130


@dataclass(frozen=True)
class Given:
    """A pruned file, how undisturbed runs end, and a folder to work in."""

    base: bytes
    known: dict[str, Truth]
    folder: Path
    rng: Random


Scenario = Callable[[Given], Iterator[str | None]]


def _prepared(given: Given) -> tuple[Path, Path]:
    """An emptied folder with a pruned file in it, and the place of the log."""
    here = given.folder / "here"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    (here / BASE).write_bytes(given.base)
    return here, given.folder / "log"


def _judged(end: End, here: Path, code: int, words: str, before: dict[str, bytes]) -> str | None:
    """The exit code, one line with certain words, whole files, and older files as they were."""
    if end.code != code or not said_one_line(end) or words not in end.stderr:
        return f"exit {end.code}: {end.stderr[-400:]!r}"
    if faults := torn(here):
        return "; ".join(faults)
    if left(here):
        return "a temporary file is left"
    changed = [name for name, content in before.items() if (here / name).read_bytes() != content]
    return f"{changed} changed" if changed else None


def full_disk(given: Given) -> Iterator[str | None]:
    """Every write of every command fails once with ENOSPC; the result of an earlier run must stay."""
    for name, command in RUNS.items():
        for at in range(given.known[name].syncs):
            here, log = _prepared(given)
            before = _earlier(given.known[name], here) if at == 0 else {}
            end = run(command.words, here, log, _failing(errno.ENOSPC, at))
            fault = _judged(end, here, 6, "no space left on device", before)
            # a folder's fsync (after the rename) is allowed to fail
            yield None if end.code == 0 and not torn(here) else fault


def limited_files(given: Given) -> Iterator[str | None]:
    """The system refuses files of more than 20,000 bytes (`ulimit -f`)."""

    def spoil() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    for name in ("prune", "finetune", "train", "export"):
        here, log = _prepared(given)
        before = _earlier(given.known[name], here)
        yield _judged(run(RUNS[name].words, here, log, spoil), here, 6, "file too large", before)


def read_only(given: Given) -> Iterator[str | None]:
    """The run folder is on a file system that is mounted read-only; without the right to mount, opening files fails."""
    for name, command in RUNS.items():
        here, log = _prepared(given)
        before = _earlier(given.known[name], here)
        mounted = _mount(here / "run", "remount,ro,bind")
        try:
            spoil = (lambda: None) if mounted else _unopenable
            yield _judged(run(command.words, here, log, spoil), here, 6, "read-only file system", before)
        finally:
            _unmount(here / "run")


def small_disk(given: Given) -> Iterator[str | None]:
    """The run folder is a file system of 40 KiB (needs the right to mount; none run without)."""
    for name in ("prune", "finetune", "train", "export"):
        here, log = _prepared(given)
        (here / "run").mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", here / "run"], check=False, capture_output=True
        ).returncode:
            return
        try:
            yield _judged(run(RUNS[name].words, here, log), here, 6, "no space left on device", {})
        finally:
            _unmount(here / "run")


def signals(given: Given) -> Iterator[str | None]:
    """SIGTERM and SIGINT at random moments: exit 130 and one line; then --resume ends as if nothing had happened."""
    for name in ("prune", "finetune", "train", "report", "score", "export") * 4:
        here, log = _prepared(given)
        began = time.monotonic()
        child = start(RUNS[name].words, here, log)
        time.sleep(given.rng.uniform(0.02, given.known[name].seconds))
        os.kill(child, given.rng.choice([signal.SIGTERM, signal.SIGINT]))
        end = wait(child, log, began)
        fault = None if end.code == 0 else _judged(end, here, INTERRUPTED, "interrupted", {})
        yield fault or "; ".join(again(RUNS[name], given.known[name], given.folder, resumed=RUNS[name].resumes)) or None


def epochs_kept(given: Given) -> Iterator[str | None]:
    """SIGTERM after an epoch: the checkpoint holds every whole epoch."""
    for _ in range(5):
        here, log = _prepared(given)
        began = time.monotonic()
        child = start(RUNS["train"].words, here, log)
        state = here / "run" / "train.ckpt"
        while not state.exists() and time.monotonic() < began + 60:
            time.sleep(0.002)
        time.sleep(given.rng.uniform(0, given.known["train"].seconds / 4))
        os.kill(child, signal.SIGTERM)
        end = wait(child, log, began)
        if end.code not in (0, INTERRUPTED):
            yield f"exit {end.code}: {end.stderr[-300:]}"
        else:
            epochs = len(torch.load(state, weights_only=True)["history"])
            yield None if epochs >= 1 else "no epoch is in the checkpoint"


def vanished(given: Given) -> Iterator[str | None]:
    """The image folder goes away in the middle of a training."""
    for _ in range(3):
        here, log = _prepared(given)
        for part in ("train", "test"):
            for label in "ab":
                (here / "data" / part / label).mkdir(parents=True)
                for i in range(30):
                    Image.new("L", (8, 8), i).save(here / "data" / part / label / f"{i}.png")
        words = ("train", "train.epochs=500", *SMALL, "model.factory=fuzzing.tiny:network", "model.args={channels: 3}")
        images = ("data.name=image_folder", "data.root=data", "data.args={size: 8, cache: false}")
        began = time.monotonic()
        child = start((*words, *images, "data.batch_size=8"), here, log)
        while not (here / "run" / "train.ckpt").exists() and time.monotonic() < began + 60:
            time.sleep(0.01)
        shutil.rmtree(here / "data")
        yield _judged(wait(child, log, began), here, 6, "is unreadable", {})


def memory(given: Given) -> Iterator[str | None]:
    """Memory runs out in a convolution, as torch says it on CPUs and GPUs and as Python does; exit 2, sizes to try."""
    errors = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    )
    for name in RUNS:
        for error in errors:
            here, log = _prepared(given)
            end = run(RUNS[name].words, here, log, _exhausted(error, given.rng.randrange(20)))
            yield _judged(end, here, 2, "_size=", {})


def addresses(given: Given) -> Iterator[str | None]:
    """Memory runs out in earnest: the process may take 100 MB more than it has, and the samples ask for more."""

    def spoil() -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + 100 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    wide = ("model.name=resnet56", "model.args={in_channels: 1}", "model.checkpoint=random", "data.batch_size=2048")
    for words in (("train", "train.epochs=1", *SMALL), ("score", *CHEAP, "data.calibration=2048")):
        here, log = _prepared(given)
        yield _judged(run((*words, *wide), here, log, spoil), here, 2, "try data.batch_size=1024", {})


def _earlier(known: Truth, here: Path) -> dict[str, bytes]:
    """Put the files of an earlier run into the folder, spoilt by nothing."""
    for name, content in known.made.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(content)
    return known.made


def _failing(code: int, at: int) -> Callable[[], None]:
    def spoil() -> None:
        real, calls = os.fsync, iter(range(10**9))

        def fsync(descriptor: int) -> None:
            if next(calls) == at:
                raise OSError(code, os.strerror(code))
            real(descriptor)

        os.fsync = fsync

    return spoil


def _unopenable() -> None:
    real = Path.open

    def opened(self: Path, mode: str = "r", *rest: object, **more: object) -> object:
        if "x" in mode or "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(self, mode, *rest, **more)  # type: ignore[call-overload]

    Path.open = opened  # type: ignore[method-assign, assignment]


def _exhausted(error: Exception, at: int) -> Callable[[], None]:
    def spoil() -> None:
        real, calls = nn.Conv2d.forward, iter(range(10**9))

        def forward(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
            if next(calls) >= at:
                raise error
            return real(self, x)

        nn.Conv2d.forward = forward  # type: ignore[method-assign]

    return spoil


def _mount(folder: Path, options: str) -> bool:
    folder.mkdir(exist_ok=True)
    steps = (["mount", "--bind", str(folder), str(folder)], ["mount", "-o", options, str(folder)])
    return all(subprocess.run(step, check=False, capture_output=True).returncode == 0 for step in steps)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=False, capture_output=True)


SCENARIOS: dict[str, Scenario] = {
    "disk full, at every write": full_disk,
    "disk full, a small file system": small_disk,
    "file size limit": limited_files,
    "read-only folder": read_only,
    "image folder vanishes": vanished,
    "SIGTERM or SIGINT": signals,
    "SIGTERM keeps whole epochs": epochs_kept,
    "out of memory, raised": memory,
    "out of memory, in earnest": addresses,
}
