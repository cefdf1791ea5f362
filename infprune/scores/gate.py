"""Theorem 1 in gate space: the nested elimination order of all channels of all layers."""

import torch
from torch import Tensor

from infprune.curvature.kronecker import wide
from infprune.influence.gate_elimination import eliminate_gates, eliminate_wide
from infprune.influence.kronecker import damped, damping_for
from infprune.scores.contract import Criterion, Need, ScoringInputs

DENSE = 4  # gates per sample up to which the C x C matrix costs less than the N x N one


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    """Fisher of the gates F = Z^T Z / N over all layers, eliminated backwards (see `influence.gate_elimination`)."""
    names = [layer.name for layer in inputs.layers]
    sizes = [layer.size for layer in inputs.layers]
    z = torch.cat([inputs.statistics.gates_model[name] for name in names], dim=1)
    z = z.to(wide(z.device))
    samples, size = z.shape
    if size > DENSE * samples:
        damping = damping_for(z.square().mean(), size, inputs.damping)
        found = eliminate_wide(z, float(damping))
    else:
        found = eliminate_gates(damped(z.T @ z / samples, inputs.damping))
    return dict(zip(names, torch.split(found, sizes), strict=True))


GATE = Criterion(_score, frozenset({Need.GATES_MODEL}))
