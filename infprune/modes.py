"""Modes of a network, borrowed and given back: evaluation, modules that are passed by, number formats."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
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


def resolved(precision: str, device: torch.device) -> str:
    """`auto` stands for bf16 where the device multiplies it by instructions of its own, else for float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        instructions = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)  # noqa: SLF001
        able = device.type == "cpu" and any(has() for has in instructions)
    return "bf16" if able else "float32"


def computing(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Let convolutions and products run in this format, `float32` or `bf16`; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
