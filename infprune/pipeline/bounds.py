"""Bounds on time and memory that hold inside code which knows of neither, such as `torch.export`."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from infprune.errors import Stopped
from infprune.units import GIB

EVERY = 0.01  # seconds between two looks at the memory


class Bounds(TorchFunctionMode):
    """Raises `Stopped`, once, from the next torch function of a tensor when a `with` block has taken more.

    The functions of a network that is being exported count too. An exception from a signal or another thread would hit
    torch's own code anywhere: one did, and a later export crashed the process. Functions of no tensor are let through:
    some give a global state back.

    `over` says what was used up, or None. `peak` is the most memory seen, in bytes; see `resident`.

    Args:
        seconds: from now on.
        memory: bytes of main memory that the process may hold, torch itself included.
    """

    def __init__(self, seconds: float, memory: float) -> None:
        super().__init__()
        self.seconds, self.memory = seconds, memory
        self.over: str | None = None
        self.peak = resident()
        self._start = self._looked = time.monotonic()
        self._raised = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        now = time.monotonic()
        if self.over is None and now > self._looked + EVERY:
            self._looked = now
            held = resident()
            self.peak = max(self.peak, held)
            if held > self.memory:
                self.over = f"{held / GIB:.2f} GiB of memory are in use, {self.memory / GIB:.2f} are allowed"
            if now > self._start + self.seconds:
                self.over = f"{self.seconds:g} s are over"
        if self.over is not None and not self._raised and args and isinstance(args[0], Tensor):
            self._raised = True
            raise Stopped
        return function(*args, **(kwargs or {}))


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
