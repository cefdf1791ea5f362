"""First-order influence: INF-CP's mask gradient and Taylor's gate gradient."""

from torch import Tensor

from infprune.scores.contract import Criterion, Need, ScoringInputs


def _inf_cp(inputs: ScoringInputs) -> dict[str, Tensor]:
    """|theta dL/dtheta| of a channel's filter, one value per batch, averaged over batches (CP eq. 5-7)."""
    return dict(inputs.statistics.mask_gradients)


def _taylor(inputs: ScoringInputs) -> dict[str, Tensor]:
    """E_n |dL_n/dg_c|: first-order loss change per sample (Molchanov et al. 2017, eq. 8, on the channel's gate)."""
    return {name: z.abs().mean(0) for name, z in inputs.statistics.gates_data.items()}


INF_CP = Criterion(_inf_cp, frozenset({Need.MASK_GRADIENTS}))
TAYLOR = Criterion(_taylor, frozenset({Need.GATES_DATA}))
