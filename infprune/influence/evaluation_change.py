"""The change of any evaluation function (MU eq. 5)."""

from torch import Tensor

from infprune.curvature.operator import LinearOperator


def evaluation_change(gradient: Tensor, shift: Tensor, curvature: LinearOperator | None = None) -> float:
    r"""I_f = grad f_eva(theta)^T dtheta: first-order change of f_eva, in its unit, for a predicted shift (MU eq. 5).

    With `curvature` the next term, 1/2 dtheta^T H_f dtheta, is added. The print stops before it; near a minimum of
    f_eva, as for the loss on other samples of the same task, it is the larger one.

    Args:
        gradient: of f_eva at theta, on any split, `(P,)`; e.g. `Objective.gradient` of a test split without ridge.
        shift: dtheta, `(P,)`.
        curvature: of f_eva at theta, or None.
    """
    shift = shift.to(gradient)
    first = float(gradient @ shift)
    return first if curvature is None else first + 0.5 * float(shift @ curvature.matvec(shift))
