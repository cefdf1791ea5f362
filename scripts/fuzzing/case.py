"""One case: a command on bad input in a folder of its own, and what must hold afterwards whatever the input was."""

import contextlib
import hashlib
import json
import os
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

import torch
import warm  # noqa: F401
from typer.testing import CliRunner

from infprune.cli.app import app

CODES = (0, 2, 3, 4, 5, 6)
SECONDS = 30  # a case may take
GROWTH = 2**30  # bytes that a case may take of main memory
ADDRESSES = 3 * 2**30  # bytes that it may ask for beyond what the process had
MARKER = "executed"  # the file that malicious input would create
OLD = b"an older result"
SMALL = ("data.calibration=64", "data.batch_size=64", "run.threads=1")
FAST = (*SMALL, "score.criterion=magnitude", "prune.scope=global", "prune.compensate=none")

Kind = Callable[[Random], list[str]]


@dataclass(frozen=True)
class Outcome:
    """`faults`: what did not hold; empty is good. `message`: what the command said on stderr."""

    code: int
    message: str
    faults: tuple[str, ...]


class HangError(BaseException):
    """A case that took too long; passes by `except Exception`."""


def run(words: list[str], *, refused: bool = False) -> Outcome:
    """Run a command in the working directory, in this process, and judge it; `refused`: it must end with code 6."""
    before, held = _digests(), _peak()
    threads = torch.get_num_threads()
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("always")
            result = CliRunner().invoke(app, words, env={**os.environ, "COLUMNS": "200"})
    except HangError:
        return Outcome(-1, "", (f"took more than {SECONDS} s",))
    finally:
        torch.set_num_threads(threads)
    told = (line for line in result.stderr.splitlines(keepends=True) if not line.startswith("progress stage="))
    message = "".join(told).strip("\n")
    faults = list(_told(result.exit_code, message, result.stdout, as_json="--json" in words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        faults.insert(0, f"{type(result.exception).__name__}: {result.exception}")
    if (grown := _peak() - held) > GROWTH:
        faults.append(f"took {grown / 2**30:.1f} GiB")
    if refused and result.exit_code != 6:
        faults.append(f"not refused: exit code {result.exit_code}")
    after = _digests()
    if any(Path(name).name == MARKER for name in after):
        faults.append("executed what the input held")
    if result.exit_code not in (0, 5) and any(after.get(name) != digest for name, digest in before.items()):
        faults.append("an existing file was changed by a command that failed")
    if any(name.endswith(".tmp") for name in after):
        faults.append("left a temporary file")
    return Outcome(result.exit_code, message, tuple(faults))


def _told(code: int, message: str, stdout: str, *, as_json: bool) -> Iterator[str]:
    lines = [line for line in message.split("\n") if line]
    if code not in CODES:
        yield f"exit code {code}"
    if "Traceback" in message:
        yield "a traceback"
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]", message):
        yield "control characters on stderr"
    if code == 0 and lines:
        yield f"exit code 0 and on stderr: {message}"
    usage = message.startswith(("Usage: ", "╭─ Error"))  # typer's own, of words it cannot read
    several = bool(lines) and lines[0].endswith(" faults") and all(line.startswith("  ") for line in lines[1:])
    if code and not usage and not (lines and lines[0].startswith("error: ") and (len(lines) == 1 or several)):
        yield f"expected one line on stderr, got: {message!r}"
    if as_json and not usage:
        try:
            told = json.loads(stdout, parse_constant=_refuse)
            if code not in (0, 5) and told["exit_code"] != code:
                yield f"exit code {code}, in JSON {told['exit_code']}"
        except (ValueError, KeyError) as error:
            yield f"stdout is not one JSON object: {error}"


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise HangError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESSES, hard))
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _peak() -> int:
    """The most main memory that was held since the last call, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def _digests() -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path().rglob("*")) if p.is_file()}
