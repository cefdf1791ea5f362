"""What a weight multiplies: the rows of the im2col matrix of a convolution or linear layer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WeightModule = nn.Linear | nn.modules.conv._ConvNd  # noqa: SLF001 - the common base of all convolutions


def columns(module: nn.Module, x: Tensor, *, ones: bool) -> Tensor:
    """Unfold the input of `module` so that its output is `weight.flatten(1) @ columns`.

    Args:
        module: a linear or convolution module.
        x: its input, `(N, ..., I)` or `(N, I, *space)`.
        ones: append a row of ones, the input of the bias.

    Returns:
        `(G, D, N * P)` with `D = I / G * K` (+ 1), `G` groups, `P` positions.
    """
    unfolded = _linear(x) if isinstance(module, nn.Linear) else _conv(module, x)
    return F.pad(unfolded, (0, 0, 0, 1), value=1.0) if ones else unfolded


def matrix(module: nn.Module) -> Tensor:
    """The weight as it multiplies the columns: `(G, O / G, D)`, without the bias."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, nn.Linear):
        return weight[None]
    if module.transposed:
        weight = weight.transpose(0, 1).flip(list(range(2, weight.dim())))
    groups: int = module.groups  # type: ignore[assignment]
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def assign(module: nn.Module, new: Tensor) -> None:
    """Set the weight from its `matrix` form, in place."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if getattr(module, "transposed", False):
        shape = (weight.shape[1], weight.shape[0], *weight.shape[2:])
        new = new.reshape(shape).flip(list(range(2, weight.dim()))).transpose(0, 1)
    weight.copy_(new.reshape(weight.shape))


def outputs(module: nn.Module, y: Tensor) -> Tensor:
    """Arrange an output (or its gradient) as `(G, O / G, N * P)`, the order of `columns`."""
    if isinstance(module, nn.Linear):
        return y.reshape(1, -1, y.shape[-1]).transpose(1, 2)
    groups: int = module.groups  # type: ignore[assignment]
    return y.transpose(0, 1).reshape(groups, y.shape[1] // groups, -1)


def _linear(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).t().unsqueeze(0)


def _conv(module: Any, x: Tensor) -> Tensor:
    stride = module.stride
    if module.transposed:
        x, stride = _spread(module, x), (1,) * len(stride)
    elif any(module._reversed_padding_repeated_twice):  # noqa: SLF001 - torch resolves 'same' into it
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001
    space = x.dim() - 2
    for d, (size, step, dilation) in enumerate(zip(module.kernel_size, stride, module.dilation, strict=True), start=2):
        x = x.unfold(d, (size - 1) * dilation + 1, step)[..., ::dilation]
    # (N, I, *positions, *kernel) -> (I, *kernel, N, *positions)
    x = x.permute(1, *range(2 + space, 2 + 2 * space), 0, *range(2, 2 + space))
    groups = module.groups
    return x.reshape(groups, x.shape[0] // groups * module.weight.shape[2:].numel(), -1)


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


def chunks(module: Any, x: Tensor, limit_bytes: int = 1 << 28) -> list[slice]:
    """Split the samples of `x` so that the columns of one part stay below `limit_bytes`."""
    kernel = 1 if isinstance(module, nn.Linear) else module.weight.shape[2:].numel()
    grown = torch.Size(module.stride).numel() if getattr(module, "transposed", False) else 1
    per_sample = max(1, x[0].numel() * int(kernel) * grown * x.itemsize)
    step = max(1, limit_bytes // per_sample)
    return [slice(i, i + step) for i in range(0, len(x), step)]


def gram(module: nn.Module, x: Tensor, *, ones: bool) -> Tensor:
    """Sum over samples and positions of the outer products of the columns: `(G, D, D)`, in the dtype of `x`."""
    parts = (columns(module, x[part], ones=ones) for part in chunks(module, x))
    return torch.stack([c @ c.mT for c in parts]).sum(0)
