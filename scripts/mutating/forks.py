"""A process of its own for each mutant."""

import contextlib
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path


def ended(action: Callable[[], int], limit: float) -> int | None:
    """The exit code of an action in a forked process; None for one that took longer than `limit` seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        code = 1
        with contextlib.suppress(BaseException):
            code = action()
        os._exit(code)
    os.close(writing)
    hung = not select.select([reading], [], [], limit)[0]  # readable once the child, and what it started, has ended
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    return None if hung else os.waitstatus_to_exitcode(status)


def redirect(log: Path) -> None:
    """What this process and its children print goes to the end of a file."""
    log.parent.mkdir(exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
