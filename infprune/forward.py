"""Call a network on its inputs, one tensor or several, and take the logits from whatever it returns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from infprune.errors import ArchitectureError
from infprune.modes import evaluating

Inputs = Tensor | tuple[Tensor, ...]
"""One batch: a tensor `(N, ...)`, or one tensor for each argument of the network's `forward`."""

Shape = tuple[int, ...] | tuple[tuple[int, ...], ...]
"""One sample's shape, or one for each input."""

LOGITS = ("logits", "out")  # what dictionaries and named outputs call them


def tensors(x: Inputs) -> tuple[Tensor, ...]:
    """The inputs as the arguments of `forward`."""
    return x if isinstance(x, tuple) else (x,)


def size(x: Inputs) -> int:
    """Number of samples."""
    return len(tensors(x)[0])


def each(change: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Change every tensor of the inputs."""
    return tuple(map(change, x)) if isinstance(x, tuple) else change(x)


def head(x: Inputs, count: int) -> Inputs:
    """The first `count` samples."""
    return each(lambda t: t[:count], x)


def rows(x: Inputs, which: Tensor) -> Inputs:
    """The samples that a mask or positions say."""
    return each(lambda t: t[which], x)


def split(x: Inputs, count: int) -> Iterator[Inputs]:
    """Parts of `count` samples, in order; the last may be smaller."""
    for i in range(0, size(x), count):
        yield each(partial(_part, slice(i, i + count)), x)


def _part(which: slice, t: Tensor) -> Tensor:
    return t[which]


def move(x: Inputs, device: str | torch.device) -> Inputs:
    """The inputs on a device."""
    return each(lambda t: t.to(device), x)


def noise_like(x: Inputs, seed: int) -> Inputs:
    """Standard normal inputs of the same shapes; integer ones (tokens) stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    return each(lambda t: torch.randn(t.shape, generator=generator).to(t) if t.is_floating_point() else t, x)


def shape(x: Inputs) -> Shape:
    """The shape of one sample: `(C, H, W)`, or `((T,), (I,))` of two inputs."""
    return tuple(tuple(t.shape[1:]) for t in x) if isinstance(x, tuple) else tuple(x.shape[1:])


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


@torch.no_grad()
def uncalled(module: nn.Module, x: Inputs) -> list[nn.Module]:
    """The modules with weights that eval mode does not call: auxiliary heads, and containers.

    The hooks also switch off torch's transformer fast path, which calls no modules.
    """
    called: set[nn.Module] = set()
    with ExitStack() as stack, evaluating(module):
        for m in module.modules():
            stack.callback(m.register_forward_pre_hook(lambda m, _: called.add(m)).remove)
        run(module, x)
    return [m for m in module.modules() if m not in called and any(True for _ in m.parameters())]
