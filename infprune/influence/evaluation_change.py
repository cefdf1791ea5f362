"""The change of any evaluation function (MU eq. 5)."""

from torch import Tensor


def evaluation_change(gradient: Tensor, shift: Tensor) -> float:
    """I_f = grad f_eva(theta)^T dtheta: first-order change of f_eva, in its unit, for a predicted shift (MU eq. 5).

    `gradient`: of f_eva at theta, on any split, `(P,)`; e.g. `Objective.gradient` of a test split without ridge.
    """
    return float(gradient @ shift.to(gradient))
