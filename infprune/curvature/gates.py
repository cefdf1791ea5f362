"""Gradients with respect to channel gates: multiply a channel by g = 1 where its consumers read it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.coupling.groups import ChannelLayer, CoupledSlice, Role
from infprune.curvature.products import filters
from infprune.curvature.sweep import LabelSource, Observer


class GateObserver(Observer):
    r"""Collects z[n, c] = sum over consumers and space of a dL_n/da: the gate gradient of one sample.

    Comes with an ordinary backward pass: no per-sample backward, no weight gradient. Channels that something else than
    a module reads (`ChannelLayer.gated`) have their gate where they are produced. In a product of two activations both
    sides give the same gradient P, so makers count half; what a module reads besides (V) counts half on both its ends:
    1/2 (2 P + V) + 1/2 V.
    """

    def __init__(self, layers: Sequence[ChannelLayer], labels: LabelSource) -> None:
        self.labels = labels
        self._readers: dict[str, list[tuple[str, Tensor, float]]] = {}
        self._makers: dict[str, list[tuple[str, Tensor, float]]] = {}
        for layer in layers:
            share = 0.5 if layer.multiplied else 1.0
            for s in heard(layer):
                self._readers.setdefault(s.tensor.rpartition(".")[0], []).append((layer.name, s.index, share))
            for s in filters(layer) if layer.gated else ():
                self._makers.setdefault(s.tensor.rpartition(".")[0], []).append((layer.name, s.index, share))
        self.outputs = frozenset(self._makers)
        self._sizes = {layer.name: layer.size for layer in layers}
        self._batch: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self._sizes}

    def input_gradient(self, name: str, module: Any, x: Tensor, gradient: Tensor) -> None:
        """Add this consumer's part of z."""
        if name not in self._readers:
            return
        product = _per_channel(module, x * gradient)
        product = product.reshape(len(x), -1, _inputs_per_group(module)).sum(1)
        for layer, index, share in self._readers[name]:
            self._add(layer, share * product[:, index.to(product.device)].sum(-1))

    def output_gradient(self, name: str, module: Any, y: Tensor | None, gradient: Tensor) -> None:
        """Add this producer's part of z."""
        if y is None or name not in self._makers:
            return
        product = _per_channel(module, y * gradient)
        for layer, index, share in self._makers[name]:
            self._add(layer, share * product[:, index.to(product.device)].sum(-1))

    def _add(self, layer: str, z: Tensor) -> None:
        self._batch[layer] = self._batch[layer] + z if layer in self._batch else z

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        """Store the rows of this batch."""
        del gradients
        device = next((z.device for z in self._batch.values()), torch.device("cpu"))
        for name, size in self._sizes.items():
            unread = torch.zeros(samples, size, device=device)  # a layer whose consumers were not run
            self._rows[name].append(self._batch.get(name, unread))
        self._batch = {}

    def result(self) -> dict[str, Tensor]:
        """Z per layer, `(N, C)`, of the samples of all ranks."""
        return {name: ranks.joined(torch.cat(rows)) for name, rows in self._rows.items()}


def heard(layer: ChannelLayer) -> tuple[CoupledSlice, ...]:
    """The slices at which a module reads a layer's channels, where these are measured there."""
    if layer.foreign:
        return ()
    return layer.having(Role.CONSUMER)


def _per_channel(module: nn.Module, product: Tensor) -> Tensor:
    """Sum over positions: `(N, C)`."""
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 - base of all convolutions
        return product.flatten(2).sum(2)
    return product.flatten(1, -2).sum(1) if product.dim() > 2 else product


def _inputs_per_group(module: Any) -> int:
    size: int = module.in_features if isinstance(module, nn.Linear) else module.in_channels // module.groups
    return size
