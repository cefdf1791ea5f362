"""Theorem 1 and Lemma 1 of *Mask and Understand* as printed."""

import torch
from torch import Tensor

from infprune.influence.quadratic import Quadratic, Removal


def printed(quadratic: Quadratic, S: Tensor) -> Removal:
    r"""Dtheta = -H^-1 u with u = w . theta / (H^-1 w) (MU eq. 3); change 1/2 u^T H^-1 u (MU eq. 4); w = 1 on S.

    Where w is 0 its product with the Hadamard inverse is 0. Exact for one parameter (remark 2) and where [H^-1]_SS is
    diagonal. For other groups it replaces [H^-1]_SS by its row sums, neither pins the group at zero nor bounds
    anything, and is infinite where a row sum is zero: docs/theory.md. Costs two solves.

    Args:
        quadratic: H, theta and a solver.
        S: positions of the group in theta, int64 `(k,)`.
    """
    theta, S = quadratic.theta, S.to(quadratic.theta.device)
    w = torch.zeros_like(theta)
    w[S] = 1
    rows = quadratic.prepared.solve(w)
    u = torch.zeros_like(theta)
    u[S] = theta[S] / rows.value.to(theta)[S]
    if not bool(torch.isfinite(u).all()):
        return Removal(torch.full_like(theta, torch.nan), float("inf"), outcome=rows.outcome, message=rows.message)
    moved = quadratic.prepared.solve(u)
    worse = max(rows, moved, key=lambda s: s.residual)
    return Removal(
        -moved.value.to(theta),
        0.5 * float(u @ moved.value.to(theta)),
        outcome=rows.outcome if not rows.converged else moved.outcome,
        residual=worse.residual,
        message=worse.message,
    )


def correlation_load(quadratic: Quadratic, S: Tensor) -> float | None:
    """K * mean |corr| of the group in H^-1, over pairs of its k entries; None where the inverse is not at hand.

    The row sums of the printed form pass through zero when this is about 1; above `WARNING` it should not be trusted.
    """
    if quadratic.inverse is None:
        return None
    if len(S) < 2:
        return 0.0
    A = quadratic.inverse[S[:, None], S]
    scale = A.diagonal().sqrt()
    off = (A / scale[:, None] / scale).abs().sum() - len(S)
    return float(off) / (len(S) - 1)


WARNING = 0.3
