"""Theorem 1 in gate space: the nested elimination order of all channels of all layers."""

import torch
from torch import Tensor

from infprune.curvature.kronecker import wide
from infprune.errors import ConfigError
from infprune.influence.gate_elimination import eliminate_gates
from infprune.influence.kronecker import damped
from infprune.scores.contract import Criterion, Need, ScoringInputs

WIDEST = 12_288  # channels: the Fisher of the gates is dense, 1.2 GiB in float64


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    """Fisher of the gates F = Z^T Z / N over all layers, eliminated backwards (see `influence.gate_elimination`)."""
    names = [layer.name for layer in inputs.layers]
    sizes = [layer.size for layer in inputs.layers]
    if sum(sizes) > WIDEST:
        raise ConfigError(
            f"gate: expected at most {WIDEST} prunable channels, got {sum(sizes)}; "
            "use score.criterion=taylor or prune.protect"
        )
    z = torch.cat([inputs.statistics.gates_model[name] for name in names], dim=1)
    z = z.to(wide(z.device))
    fisher = damped(z.T @ z / len(z), inputs.damping)
    return dict(zip(names, torch.split(eliminate_gates(fisher), sizes), strict=True))


GATE = Criterion(_score, frozenset({Need.GATES_MODEL}))
