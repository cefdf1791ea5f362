"""What a piece of a generated network is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Site:
    """Where a piece goes: it reads `c` channels on `h` x `w` positions (`t` tokens), and may make `o` channels.

    A piece that reads two nodes finds `c2` channels (on the same positions) in the second.
    """

    c: int
    h: int
    w: int
    o: int
    c2: int = 0

    @property
    def t(self) -> int:
        return self.h * self.w

    @property
    def heads(self) -> int:
        return 2 if self.c % 2 == 0 else 1


Build = Callable[[Site], nn.Module | None]  # None: the piece does not fit there


class Piece(nn.Module):
    """Submodules, tensors and integers by name, and `code(self, x, ...)` as the forward pass."""

    def __init__(self, code, **parts):
        super().__init__()
        self._code = code
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs):
        return self._code(self, *inputs)


def piece(code, **makers):
    """A piece whose parts are made for its site: `piece(lambda s, x: s.a(x), a=lambda at: nn.Linear(at.c, at.o))`."""
    return lambda at: Piece(code, **{name: make(at) for name, make in makers.items()})


def only(condition, build):
    """A piece for some sites only."""
    return lambda at: build(at) if condition(at) else None


def parameter(*sizes):
    """A part: a parameter of order one, away from zero. Sizes are numbers, or names of the site's."""
    return lambda at: nn.Parameter(torch.rand(*_sized(at, sizes)) + 0.5)


def constant(*sizes):
    """The same as a buffer."""
    return lambda at: torch.rand(*_sized(at, sizes)) + 0.5


def _sized(at, sizes):
    return [getattr(at, size) if isinstance(size, str) else size for size in sizes]


def even(at):
    return at.c % 2 == 0


def wide(at):
    """At least two rows and columns."""
    return min(at.h, at.w) > 1
