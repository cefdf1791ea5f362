"""Theorem 1 in its exact block form: the printed row sums replaced by the block itself."""

import torch
from torch import Tensor

from infprune.curvature.algebra import Restricted, principal
from infprune.influence.quadratic import Quadratic, Removal
from infprune.solvers.direct import Failed


def block(quadratic: Quadratic, S: Tensor) -> Removal:
    r"""Dtheta = -H^-1 E_S A^-1 theta_S, change 1/2 theta_S^T A^-1 theta_S, A = [H^-1]_SS.

    The minimum of the quadratic over all d with d_S = -theta_S: the group is pinned at zero exactly. With H^-1 at hand,
    one k x k solve. Else the same minimum through the free entries F, one solve and no inverse:
    H_FF d_F = H_FS theta_S.

    Args:
        quadratic: H, theta and a solver.
        S: positions of the group in theta, int64 `(k,)`.
    """
    S = S.to(quadratic.theta.device)
    if isinstance(quadratic.prepared, Failed):  # H itself is no minimum's, whatever its blocks are
        failed = quadratic.prepared
        return Removal(
            torch.full_like(quadratic.theta, torch.nan), torch.nan, outcome=failed.outcome, message=failed.message
        )
    if quadratic.inverse is None:
        return _through_the_rest(quadratic, S)
    inverse, theta = quadratic.inverse, quadratic.theta.to(quadratic.inverse)
    root = torch.linalg.cholesky(inverse[S[:, None], S])
    pulled = torch.cholesky_solve(theta[S, None], root)[:, 0]
    shift = -inverse[:, S] @ pulled
    shift[S] = -theta[S]
    return Removal(shift.to(quadratic.theta), 0.5 * float(theta[S] @ pulled))


def _through_the_rest(quadratic: Quadratic, S: Tensor) -> Removal:
    theta, F = quadratic.theta, quadratic.rest(S)
    shift = torch.zeros_like(theta)
    shift[S] = -theta[S]
    if not len(F):
        return Removal(shift, quadratic.energy(shift))
    pull = Restricted(quadratic.operator, F, S).matvec(theta[S])
    found = quadratic.solver.init(principal(quadratic.operator, F)).solve(pull)
    shift[F] = found.value.to(theta)
    return Removal(
        shift,
        quadratic.energy(shift),
        outcome=found.outcome,
        residual=found.residual,
        message=found.message,
    )
