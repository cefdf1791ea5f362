"""Mask gradients: weight times gradient, one value per channel and batch (INF-CP eq. 5-7)."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from infprune import ranks
from infprune.coupling.groups import ChannelLayer, CoupledSlice, Role
from infprune.curvature.sweep import LabelSource, Observer


class MaskGradientObserver(Observer):
    r"""Averages |sum over the channel's filter weights of theta dL/dtheta| over batches.

    The gradient with respect to a mask M = 1 that multiplies the weight is theta dL/dtheta (eq. 6 and 7); the channel
    sums it over its filter (eq. 4). The loss is the batch mean. The absolute value is taken per batch, before the
    average (the paper's bagging): the signed mean vanishes at a minimum.
    """

    labels = LabelSource.DATA
    weights = True

    def __init__(self, module: nn.Module, layers: Sequence[ChannelLayer]) -> None:
        self._weights = dict(module.named_parameters())
        self._layers = layers
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        """Add one value per channel."""
        self._batches += 1
        products = {name: self._weights[name].detach() * g for name, g in gradients.items() if g.dim() > 1}
        for layer in self._layers:
            value = next(iter(self._weights.values())).new_zeros(layer.size)
            for s in filters(layer):
                if s.tensor in products:  # else the loss does not depend on it
                    value = value + by_channel(products[s.tensor], s)
            self._sums[layer.name] = self._sums.get(layer.name, 0) + (value.detach() / samples).abs()

    def result(self) -> dict[str, Tensor]:
        """Mean over the batches of all ranks, per layer: `(C,)`."""
        batches = ranks.totals(self._batches)[0]
        return {name: ranks.total(found) / batches for name, found in self._sums.items()}


def filters(layer: ChannelLayer) -> list[CoupledSlice]:
    """The weights (not biases) that produce the channels of a layer."""
    return [s for s in layer.having(Role.PRODUCER) if not s.tensor.endswith("bias")]


def by_channel(values: Tensor, s: CoupledSlice) -> Tensor:
    """Sum a weight-shaped tensor over the filter of each channel: `(C,)`."""
    rows = values.movedim(s.dim, 0).flatten(1).sum(1)
    return rows[s.index.to(rows.device)].sum(-1)
