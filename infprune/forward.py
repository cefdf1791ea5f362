"""Call a network on its inputs, one tensor or several, and take the logits from whatever it returns."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from infprune.errors import ArchitectureError

Inputs = Tensor | tuple[Tensor, ...]
"""One batch: a tensor `(N, ...)`, or one tensor for each argument of the network's `forward`."""

LOGITS = ("logits", "out")  # what dictionaries and named outputs call them


def tensors(x: Inputs) -> tuple[Tensor, ...]:
    """The inputs as the arguments of `forward`."""
    return x if isinstance(x, tuple) else (x,)


def size(x: Inputs) -> int:
    """Number of samples."""
    return len(tensors(x)[0])


def head(x: Inputs, count: int) -> Inputs:
    """The first `count` samples."""
    return tuple(t[:count] for t in x) if isinstance(x, tuple) else x[:count]


def move(x: Inputs, device: str | torch.device) -> Inputs:
    """The inputs on a device."""
    return tuple(t.to(device) for t in x) if isinstance(x, tuple) else x.to(device)


def run(module: nn.Module, x: Inputs) -> Any:
    """Whatever the network returns."""
    return module(*tensors(x))


def logits(module: nn.Module, x: Inputs) -> Tensor:
    """Call the network and pick its logits: the output itself, the first of a tuple, or `logits` or `out` of a mapping.

    Raises:
        ArchitectureError: no tensor of shape (N, classes) is found there.
    """
    found = picked(run(module, x))
    if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != size(x):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArchitectureError(f"expected logits ({size(x)}, classes) from {type(module).__name__}, got {got}")
    return found


def picked(output: Any) -> Any:
    """The logits among the outputs of a network, which need not be a tensor."""
    if isinstance(output, Tensor):
        return output
    for name in LOGITS:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if found is not None:
            return found
    leaves = tree_leaves(output)
    return leaves[0] if leaves else output
