"""Modes of a network, borrowed and given back: evaluation, modules that are passed by."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into eval mode; afterwards every submodule is in the mode it was in."""
    modes = {m: m.training for module in modules for m in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


@contextmanager
def passing_by(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let modules return their first input."""
    chosen = [m for m in modules if "forward" not in vars(m)]
    try:
        for m in chosen:
            m.forward = _first
        yield
    finally:
        for m in chosen:
            del m.forward


def _first(x: object, *_: object, **__: object) -> object:
    return x
