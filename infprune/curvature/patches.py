"""What a weight multiplies: the rows of the im2col matrix of a convolution or linear layer."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.curvature.positions import ALL, Positions


def columns(module: nn.Module, x: Tensor, *, ones: bool, at: Positions = ALL) -> Tensor:
    """Unfold the input of `module` so that its output is `weight.flatten(1) @ columns`.

    Args:
        module: a linear or convolution module.
        x: its input, `(N, ..., I)` or `(N, I, *space)`.
        ones: append a row of ones, the input of the bias.
        at: the output positions wanted.

    Returns:
        `(G, D, N * P)` with `D = I / G * K` (+ 1), `G` groups, `P` positions. Samples of one offset stand together;
        columns that stand for w positions are times sqrt(w), so that their products sum as over all positions.
    """
    return _linear(x, at, ones=ones) if isinstance(module, nn.Linear) else _conv(module, x, at, ones=ones)


def matrix(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The weight, or a tensor of its shape, as it multiplies the columns: `(G, O / G, D)`, without the bias."""
    weight = module.weight if weight is None else weight  # type: ignore[assignment]
    assert isinstance(weight, Tensor)
    if isinstance(module, nn.Linear):
        return weight[None]
    if module.transposed:
        weight = weight.transpose(0, 1).flip(list(range(2, weight.dim())))
    groups: int = module.groups  # type: ignore[assignment]
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def assigned(module: nn.Module, new: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The weight whose `matrix` form is `new`, in the type of the module's own unless another is asked for."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if getattr(module, "transposed", False):
        shape = (weight.shape[1], weight.shape[0], *weight.shape[2:])
        new = new.reshape(shape).flip(list(range(2, weight.dim()))).transpose(0, 1)
    return new.reshape(weight.shape).to(weight.device, dtype or weight.dtype)


def rows_read(module: nn.Module, positions: Tensor) -> Tensor:
    """The rows of `columns` that come from input positions (of a group) `(..., k)`: `(..., k * K)`."""
    assert isinstance(module.weight, Tensor)
    kernel = module.weight.shape[2:].numel()
    return (positions[..., None] * kernel + torch.arange(kernel)).flatten(-2)


def outputs(module: nn.Module, y: Tensor, at: Positions = ALL) -> Tensor:
    """Arrange an output (or its gradient) as `(G, O / G, N * P)`, the order and scale of `columns`."""
    if isinstance(module, nn.Linear):
        return _linear(y, at, ones=False)
    groups: int = module.groups  # type: ignore[assignment]
    return _joined(
        y, range(2, y.dim()), at, lambda t: t.transpose(0, 1).reshape(groups, y.shape[1] // groups, -1), ones=False
    )


def _linear(x: Tensor, at: Positions, *, ones: bool) -> Tensor:
    width = x.shape[-1]
    return _joined(x, range(1, x.dim() - 1), at, lambda t: t.reshape(-1, width).t()[None], ones=ones)


def _conv(module: Any, x: Tensor, at: Positions, *, ones: bool) -> Tensor:
    stride = module.stride
    if module.transposed:
        x, stride = _spread(module, x), (1,) * len(stride)
    elif any(module._reversed_padding_repeated_twice):  # noqa: SLF001 - torch resolves 'same' into it
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001
    space = x.dim() - 2
    for d, (size, step, dilation) in enumerate(zip(module.kernel_size, stride, module.dilation, strict=True), start=2):
        x = x.unfold(d, (size - 1) * dilation + 1, step)[..., ::dilation]
    rows = x.shape[1] // module.groups * module.weight.shape[2:].numel()
    # (N, I, *positions, *kernel) -> (I, *kernel, N, *positions)
    order = (1, *range(2 + space, 2 + 2 * space), 0, *range(2, 2 + space))
    return _joined(x, range(2, 2 + space), at, lambda t: t.permute(order).reshape(module.groups, rows, -1), ones=ones)


def _joined(x: Tensor, axes: range, at: Positions, arrange: Callable[[Tensor], Tensor], *, ones: bool) -> Tensor:
    """The positions wanted of `x`, whose `axes` run over positions, each part brought to `(G, rows, columns)`."""
    parts = [arrange(t) for t in at.parts(x, axes)]
    weight = at.weight([x.shape[d] for d in axes])
    if not ones and len(parts) == 1:
        return parts[0] if weight == 1 else parts[0] * weight**0.5
    groups, rows = parts[0].shape[:2]
    ends = list(accumulate(p.shape[2] for p in parts))
    found = x.new_ones(groups, rows + ones, ends[-1])
    for part, end in zip(parts, ends, strict=True):
        found[:, :rows, end - part.shape[2] : end] = part
    return found if weight == 1 else found.mul_(weight**0.5)


def _spread(module: Any, x: Tensor) -> Tensor:
    """The input of the ordinary convolution that a transposed one is: zeros between the positions and around them."""
    space = range(2, x.dim())
    sizes = [(x.shape[d] - 1) * module.stride[d - 2] + 1 for d in space]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    inner = spread
    for d, step in zip(space, module.stride, strict=True):
        inner = inner[(slice(None),) * d + (slice(None, None, step),)]
    inner.copy_(x)
    widths: list[int] = []
    for size, dilation, padding, extra in zip(
        module.kernel_size, module.dilation, module.padding, module.output_padding, strict=True
    ):
        side = dilation * (size - 1) - padding
        widths = [side, side + extra, *widths]
    return F.pad(spread, widths)


def chunks(module: Any, x: Tensor, limit_bytes: int = 1 << 28, at: Positions = ALL) -> list[tuple[slice, Positions]]:
    """Split the samples of `x` so that the columns of one part stay below `limit_bytes`; each with its positions."""
    linear = isinstance(module, nn.Linear)
    kernel = 1 if linear else module.weight.shape[2:].numel()
    grown = torch.Size(module.stride).numel() if getattr(module, "transposed", False) else 1
    space = x.shape[1:-1] if linear else x.shape[2:]
    seen = torch.Size(at.grid(space)).numel() / max(1, space.numel())
    per_sample = max(1, int(x[0].numel() * kernel * grown * seen) * x.itemsize)
    step = max(1, limit_bytes // per_sample)
    return [(slice(i, i + step), Positions(at.count, at.first + i)) for i in range(0, len(x), step)]
