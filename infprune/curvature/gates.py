"""Gradients with respect to channel gates: multiply a channel by g = 1 where its consumers read it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer, Role
from infprune.curvature.sweep import LabelSource, Observer


class GateObserver(Observer):
    r"""Collects z[n, c] = sum over consumers and space of a dL_n/da: the gate gradient of one sample.

    Comes with an ordinary backward pass: no per-sample backward, no weight gradient.
    """

    def __init__(self, layers: Sequence[ChannelLayer], labels: LabelSource) -> None:
        self.labels = labels
        self._readers: dict[str, list[tuple[str, Tensor]]] = {}
        for layer in layers:
            for s in layer.having(Role.CONSUMER):
                self._readers.setdefault(s.tensor.rpartition(".")[0], []).append((layer.name, s.index))
        self._sizes = {layer.name: layer.size for layer in layers}
        self._batch: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self._sizes}

    def input_gradient(self, name: str, module: Any, x: Tensor, gradient: Tensor) -> None:
        """Add this consumer's part of z."""
        if name not in self._readers:
            return
        product = x * gradient
        linear = isinstance(module, nn.Linear)
        product = product.flatten(1, -2).sum(1) if linear and product.dim() > 2 else product
        product = product if linear else product.flatten(2).sum(2)
        product = product.reshape(len(x), -1, module.weight.shape[1]).sum(1)
        for layer, index in self._readers[name]:
            z = product[:, index.to(product.device)].sum(-1)
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
        """Z per layer, `(N, C)`."""
        return {name: torch.cat(rows) for name, rows in self._rows.items()}
