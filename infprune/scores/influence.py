"""Exact block form of Theorem 1 in Kronecker-factored weight space, on the consumers' side."""

import torch
from torch import Tensor

from infprune.coupling.groups import ChannelLayer
from infprune.influence.kronecker import block_scores, damped, inverse
from infprune.scores.consumers import columns_read, sum_over_consumers
from infprune.scores.contract import Criterion, Need, ScoringInputs


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    r"""s_c = 1/2 tr(G W_C ([A^-1]_CC)^-1 W_C^T), summed over everything that reads channel c.

    Each consumer's other columns, its bias column included, adapt (MU Theorem 1 with the exact block [H^-1]_SS).
    Consumers only: a dead producer already silences its consumers, so rows plus columns would count twice.
    """
    cache: dict[str, tuple[Tensor, Tensor]] = {}

    def one(layer: ChannelLayer, module: str, index: Tensor) -> Tensor:
        factors = inputs.statistics.kronecker[module]
        if module not in cache:
            cache[module] = (inverse(damped(factors.inputs, inputs.damping)), factors.gradients)
        inverses, gradients = cache[module]
        weight, columns = columns_read(inputs.module.get_submodule(module), index, inverses)
        return torch.stack([block_scores(*group, columns) for group in zip(weight, inverses, gradients, strict=True)]).sum(0)

    return sum_over_consumers(inputs.layers, one)


INFLUENCE = Criterion(_score, frozenset({Need.KRONECKER}))
