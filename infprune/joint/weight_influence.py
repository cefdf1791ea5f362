"""The mask gradient of every weight while training (CP eq. 5-7), averaged over mini-batches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer, CoupledSlice
from infprune.curvature.products import by_channel, filters


class WeightInfluence:
    """Running means of |theta dL/dtheta|, for each weight of a filter and for each channel.

    A mask M = 1 on a weight has the gradient theta dL/dtheta, which the ordinary backward pass has computed already but
    for one product; no mask is stored. Absolute values are taken per mini-batch, before averaging (the paper's
    bagging). The mean is plain over the first batches, then exponential.
    """

    def __init__(self, layers: Sequence[ChannelLayer], decay: float) -> None:
        self._layers = layers
        self._decay = decay
        self._batches = 0
        self.channels: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, module: nn.Module, watched: Sequence[str]) -> None:
        """Add a batch whose gradients stand in the parameters; single weights only of the layers `watched`."""
        self._batches += 1
        step = max(1 - self._decay, 1 / self._batches)
        named = dict(module.named_parameters())
        products: dict[str, Tensor] = {}
        for layer in self._layers:
            for s in filters(layer):
                if s.tensor not in products:
                    p = named[s.tensor]
                    products[s.tensor] = torch.zeros_like(p) if p.grad is None else p * p.grad
            slices = filters(layer)
            channel = torch.stack([by_channel(products[s.tensor], s) for s in slices]).sum(0).abs()
            _mix(self.channels, layer.name, channel, step)
            if layer.name in watched:
                rows = [_rows(products[s.tensor].abs(), s) for s in slices]
                _mix(self.weights, layer.name, rows[0] if len(rows) == 1 else torch.cat(rows, 1), step)

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"batches": self._batches, "channels": dict(self.channels), "weights": dict(self.weights)}

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state`."""
        self._batches = int(state["batches"])  # type: ignore[call-overload]
        self.channels, self.weights = dict(state["channels"]), dict(state["weights"])  # type: ignore[call-overload]


def _mix(means: dict[str, Tensor], name: str, new: Tensor, step: float) -> None:
    if name in means:
        means[name].lerp_(new, step)
    else:
        means[name] = new.clone()


def _rows(values: Tensor, s: CoupledSlice) -> Tensor:
    """The entries of a weight-shaped tensor that belong to each channel's filter: `(C, n)`."""
    rows = values.movedim(s.dim, 0).flatten(1)
    if torch.equal(s.index.flatten(), torch.arange(len(rows))):
        return rows.reshape(len(s.index), -1)
    return rows[s.index.to(rows.device)].flatten(1)
