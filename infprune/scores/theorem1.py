"""Theorem 1 exactly as printed, in Kronecker-factored weight space: kept for comparison."""

import torch
from torch import Tensor

from infprune.curvature.kronecker import wide
from infprune.influence.kronecker import dampen, invert, printed_scores
from infprune.scores.consumers import columns_read, sum_over_consumers
from infprune.scores.contract import Criterion, Need, ScoringInputs


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    """Lemma 1 (MU eq. 4) for the weights that read channel c, with the row sums of H^-1 as printed.

    Exact for one parameter; for a channel's block the row sums replace the block, pass through zero and make the
    quotient explode. `influence` is the corrected form.
    """
    cache: dict[str, tuple[Tensor, Tensor]] = {}

    def one(module: str, index: Tensor) -> Tensor:
        factors = inputs.statistics.kronecker[module]
        if module not in cache:
            pair = (factors.inputs.dense(), factors.gradients.to(wide(factors.gradients.device), copy=True))
            cache[module] = tuple(invert(dampen(m, inputs.damping)) for m in pair)  # type: ignore[assignment]
        inverses, gradients = cache[module]
        weight, columns = columns_read(inputs.module.get_submodule(module), index, inverses)
        return torch.stack(
            [printed_scores(*group, columns) for group in zip(weight, inverses, gradients, strict=True)]
        ).sum(0)

    return sum_over_consumers(inputs, one)


THEOREM1 = Criterion(_score, frozenset({Need.KRONECKER}), separable=True)
