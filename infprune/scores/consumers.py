"""Sums over the convolutions and linear layers that read a channel."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer, Role
from infprune.curvature.patches import matrix, rows_read
from infprune.scores.contract import ScoringInputs


def sum_over_consumers(inputs: ScoringInputs, one: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Add `one(consumer module name, positions read (C, k))` over a layer's consumers; a gated one has its gate."""
    return {
        layer.name: gate_price(inputs, layer)
        if layer.gated
        else torch.stack([one(s.tensor.rpartition(".")[0], s.index) for s in layer.having(Role.CONSUMER)]).sum(0)
        for layer in inputs.layers
    }


def gate_price(inputs: ScoringInputs, layer: ChannelLayer) -> Tensor:
    """1/2 E_n z_n^2, the loss change of closing one gate with nothing adapted: for layers that no module reads."""
    return 0.5 * inputs.statistics.gates_model[layer.name].square().mean(0)


def columns_read(module: nn.Module, index: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The weight as `(G, O/G, D')` in the dtype of `like`, and the im2col columns `(C, k * K)` of its positions."""
    weight = matrix(module).detach().to(like.dtype)
    return weight, rows_read(module, index).to(like.device)
