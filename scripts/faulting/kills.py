"""Kill a run, look at what is left, and run it again."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from faulting.runs import BASE, RUNS, End, Run, run, start, wait
from faulting.whole import left, torn

CLOCK = ("seconds", "latency_ms", "time_ratio")  # keys of a result, wherever they are


@dataclass(frozen=True)
class Truth:
    """A run that nobody disturbed: how long it takes, and the bytes it makes."""

    seconds: float
    made: dict[str, bytes]
    syncs: int


@dataclass(frozen=True)
class Killed:
    """`when`: at a moment, or inside a write. `reached`: whether the run was still going. `faults`: none is good."""

    when: str
    reached: bool
    resumed: bool
    temporaries: int
    faults: tuple[str, ...]


def truth(name: str, base: bytes, folder: Path) -> Truth:
    """Run a command twice, undisturbed: its files must be the same bytes, and its number of writes is counted."""
    made, seconds = [], 0.0
    for _ in range(2):
        counted = folder / "syncs"
        _fresh(folder, base)
        end = run(RUNS[name].words, folder / "here", folder / "log", _counting(counted))
        assert end.code == 0, f"{name}: {end.stderr}"
        made.append(_made(RUNS[name], folder / "here"))
        seconds = end.seconds
    assert made[0] == made[1], f"{name} is not deterministic: {[k for k in made[0] if made[0][k] != made[1][k]]}"
    return Truth(seconds, made[0], len(counted.read_bytes()))


def kill(name: str, known: Truth, base: bytes, folder: Path, rng: Random) -> Killed:
    """Kill one run with SIGKILL, half of them at a step of a write, and run it again, with or without --resume."""
    _fresh(folder, base)
    here, log, command = folder / "here", folder / "log", RUNS[name]
    writing = rng.random() < 0.5
    began = time.monotonic()
    if writing:
        end = run(command.words, here, log, suicidal(rng.randrange(known.syncs), after=rng.random() < 0.5))
    else:
        child = start(command.words, here, log)
        time.sleep(rng.uniform(0, 1.05 * known.seconds))
        os.kill(child, signal.SIGKILL)
        end = wait(child, log, began)
    faults, temporaries = torn(here), left(here)
    resumed = command.resumes and rng.random() < 0.6
    faults += again(command, known, folder, resumed=resumed)
    when = "inside a write" if writing else "at a moment"
    return Killed(when, end.code == -signal.SIGKILL, resumed, temporaries, tuple(faults))


def again(command: Run, known: Truth, folder: Path, *, resumed: bool) -> list[str]:
    """Run it to its end, and compare with the undisturbed run."""
    here = folder / "here"
    before = left(here)
    end = run((*command.words, *(["--resume"] if resumed else [])), here, folder / "log")
    if end.code != 0:
        return [f"the rerun ended with {end.code}: {end.stderr[-300:]}"]
    found = _made(command, here)
    faults = [f"{name} differs from an undisturbed run's" for name in known.made if found[name] != known.made[name]]
    if left(here) > before:
        faults.append("the rerun left a temporary file")
    return faults + torn(here)


def said_one_line(end: End) -> bool:
    """Whether a run that failed said so in one line."""
    lines = end.stderr.strip().splitlines()
    return len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in end.stderr


def _fresh(folder: Path, base: bytes) -> None:
    shutil.rmtree(folder / "here", ignore_errors=True)
    (folder / "here").mkdir(parents=True)
    (folder / "here" / BASE).write_bytes(base)


def _made(command: Run, here: Path) -> dict[str, bytes]:
    return {name: _content(here / name) for name in command.made}


def _content(path: Path) -> bytes:
    """The bytes of a file; of a result's JSON without what the clock decides."""
    if path.suffix != ".json":
        return path.read_bytes()
    content = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps(_timeless(content), indent=2).encode()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if key not in CLOCK}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def _counting(file: Path) -> Callable[[], None]:
    def spoil() -> None:
        real = os.fsync
        file.write_bytes(b"")

        def fsync(descriptor: int) -> None:
            with file.open("ab") as out:
                out.write(b".")
            real(descriptor)

        os.fsync = fsync

    return spoil


def suicidal(at: int, *, after: bool) -> Callable[[], None]:
    """Die at a call of `fsync`: a file is written and not yet renamed, or (a folder's) just renamed."""

    def spoil() -> None:
        real, calls = os.fsync, iter(range(10**9))

        def fsync(descriptor: int) -> None:
            fatal = next(calls) == at
            if fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            real(descriptor)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = fsync

    return spoil
