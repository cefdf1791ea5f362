"""Sums over the convolutions and linear layers that read a channel."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer, Role


def sum_over_consumers(layers: Sequence[ChannelLayer], one: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Add `one(consumer module name, positions read (C, k))` over the consumers of each layer."""
    return {
        layer.name: torch.stack([one(s.tensor.rpartition(".")[0], s.index) for s in layer.having(Role.CONSUMER)]).sum(0)
        for layer in layers
    }


def columns_read(module: nn.Module, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The weight as `(G, O/G, D')` in the dtype of `like`, and the im2col columns `(C, k * K)` of its positions."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = like.shape[0]
    kernel = weight.shape[2:].numel()
    columns = (index[..., None] * kernel + torch.arange(kernel)).flatten(1)
    flat = weight.detach().to(like.dtype).reshape(groups, weight.shape[0] // groups, -1)
    return flat, columns.to(like.device)
