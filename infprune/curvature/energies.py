r"""g_n^T K g_n of every sample's gradient, K a Kronecker curvature or its inverse, without a gradient of a sample."""

from collections.abc import Mapping

import torch
from torch import Tensor

from infprune import ranks
from infprune.curvature.kfac import Block, Kronecker, Rotated
from infprune.curvature.objective import Objective
from infprune.curvature.sweep import LabelSource, Sweep


def energies(objective: Objective, operator: Kronecker) -> Tensor:
    r"""Per sample, in the order of the batches, `(N,)` float64; without the ridge.

    .. math:: s_n = \sum_l \sum_{ij} \lambda^l_{ij} \, (Q_G^\top \nabla_{W_l} \ell_n \, Q_A)_{ij}^2

    One forward and one backward pass. A linear layer costs `O^2 + D^2 + O D` products per sample, as its gradient has
    rank one; a convolution `O D` times its positions, a few samples at a time.

    Raises:
        CalledTwiceError: a module is called twice.
    """
    observer = _Energies(operator.blocks)
    Sweep(operator.module, sorted(operator.blocks), [observer], objective.loss).run(objective.batches, seed=0, draws=1)
    return ranks.joined(torch.cat(observer.found))


class _Energies(Rotated):
    """Sums over layers, of each sample."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        super().__init__(blocks, LabelSource.DATA)
        self.found: list[Tensor] = []
        self._parts: list[tuple[slice, Tensor]] = []

    def seen(self, name: str, at: slice, outer: Tensor, inner: Tensor | None) -> None:
        values = self._blocks[name].values
        part = torch.einsum("gond,god->n", outer, values) if inner is None else (outer * (values @ inner)).sum((0, 1))
        self._parts.append((at, part))

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        super().batch(samples, gradients)
        total = torch.zeros(samples, dtype=torch.float64, device=next(iter(self._blocks.values())).values.device)
        for at, part in self._parts:
            total[at] += part
        self.found.append(total.cpu())
        self._parts = []
