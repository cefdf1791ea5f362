"""Bounds on time and memory that hold inside code which knows of neither, such as `torch.export`."""

import ctypes
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from infprune.errors import Stopped

GIB = 2**30
EVERY = 0.05  # seconds between two looks
AGAIN, ASKED = 2.0, 5  # Python drops an exception that hits a finaliser: wait so many seconds and ask again


class Bounds:
    """Raises `Stopped` in the thread of a `with` block once it takes more; between two operations, never within one.

    `over` says what was used up, or None. `peak` is the most memory seen so far, in bytes; see `resident`.

    Args:
        seconds: from the start of the block.
        memory: bytes of main memory that the process may hold, torch itself included.
    """

    def __init__(self, seconds: float, memory: float) -> None:
        self.seconds, self.memory = seconds, memory
        self.over: str | None = None
        self.peak = 0
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._watcher = threading.Thread(
            target=self._watch, args=(threading.get_ident(), time.monotonic() + self.seconds), daemon=True
        )
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._done.set()
        self._watcher.join()
        self.peak = max(self.peak, resident())

    def _watch(self, thread: int, end: float) -> None:
        while self.over is None and not self._done.wait(EVERY):
            held = resident()
            self.peak = max(self.peak, held)
            if time.monotonic() >= end:
                self.over = f"{self.seconds:g} s are over"
            elif held > self.memory:
                self.over = f"{held / GIB:.1f} GiB of memory are in use, {self.memory / GIB:.1f} are allowed"
        for _ in range(ASKED):
            if not self._done.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))
                self._done.wait(AGAIN)


def resident() -> int:
    """Bytes of main memory that the process holds; where only the peak so far is known (not on Linux), that; else 0."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def installed() -> float:
    """Bytes of main memory of the machine; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
