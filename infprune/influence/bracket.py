"""Two-sided bounds on the exact block form that hold however early the iteration stops."""

from itertools import islice

import torch
from torch import Tensor

from infprune.curvature.algebra import Dense, Restricted, principal
from infprune.errors import ConfigError
from infprune.influence.quadratic import Quadratic, Removal
from infprune.solvers.cg import iterates, jacobi
from infprune.solvers.contract import Outcome


def bracket(quadratic: Quadratic, S: Tensor) -> Removal:
    r"""Bounds [low, high] on 1/2 theta_S^T A^-1 theta_S, A = [H^-1]_SS; `change` and `shift` belong to the upper one.

    With H^-1 at hand, Jacobi-preconditioned CG on A u = theta_S: for any u

    .. math:: \theta_S^T u - \tfrac12 u^T A u \;\le\; \tfrac12 \theta_S^T A^{-1} \theta_S \;\le\; \tfrac12 d^T H d,
              \quad d_S = -\theta_S, \; d_F = -[H^{-1} E_S u]_F.

    The left side is 1/2 theta_S^T u_k for CG's iterates and rises; at u = 0 the right is 1/2 theta_S^T H_SS theta_S.

    Matrix-free, CG on the free entries, H_FF d_F = H_FS theta_S: any d_F gives an upper bound, and with r the residual
    and `floor` below all eigenvalues the truth is at most |r|^2 / (2 floor) under it.

    Stops when high - low <= `rtol` high, or after `steps` (of the quadratic).

    Raises:
        ConfigError: matrix-free without a positive floor: nothing is certain then.
    """
    S = S.to(quadratic.theta.device)
    if quadratic.inverse is not None:
        return _dual(quadratic, S)
    if not quadratic.floor or quadratic.floor <= 0:
        raise ConfigError(
            "a certified bracket needs a semi-definite curvature with a positive damping, or a dense one; set "
            "influence.damping above 0 with curvature ggn, or influence.solver=cholesky"
        )
    return _primal(quadratic, S)


def _dual(quadratic: Quadratic, S: Tensor) -> Removal:
    inverse, matrix = quadratic.inverse, quadratic.matrix
    assert inverse is not None
    assert matrix is not None
    theta, F = quadratic.theta.to(inverse), quadratic.rest(S)
    A, pinned = Dense(inverse[S[:, None], S]), theta[S]
    low, best = 0.0, _removed(theta, S, F, torch.zeros_like(theta[F]), matrix)
    for state in islice(iterates(A, pinned[:, None], jacobi(A)), 1, quadratic.steps + 1):
        u = state.X[:, 0]
        low = max(low, float(pinned @ u - 0.5 * u @ A.matvec(u)))
        found = _removed(theta, S, F, -inverse[F[:, None], S] @ u, matrix)
        best = min(best, found, key=lambda pair: pair[1])
        if best[1] - low <= quadratic.rtol * best[1] or state.negative is not None:
            break
    return _bounded(best[0].to(quadratic.theta), low, best[1], quadratic.rtol)


def _removed(theta: Tensor, S: Tensor, F: Tensor, free: Tensor, matrix: Tensor) -> tuple[Tensor, float]:
    """The shift whose free entries are given, and its energy."""
    d = torch.zeros_like(theta)
    d[S], d[F] = -theta[S], free
    return d, 0.5 * float(d @ matrix @ d)


def _primal(quadratic: Quadratic, S: Tensor) -> Removal:
    theta, F = quadratic.theta, quadratic.rest(S)
    d = torch.zeros_like(theta)
    d[S] = -theta[S]
    own = quadratic.energy(d)  # 1/2 theta_S^T H_SS theta_S
    if not len(F):
        return Removal(d, own, own, own)
    assert quadratic.floor is not None
    pull = Restricted(quadratic.operator, F, S).matvec(theta[S])
    below, low, high = d.clone(), 0.0, own
    for state in islice(iterates(principal(quadratic.operator, F), pull[:, None]), 0, quadratic.steps + 1):
        x, r = state.X[:, 0], state.R[:, 0]
        # 1/2 d^T H d with H_FF x = pull - r: own - pull^T x + 1/2 x^T (pull - r)
        energy = own - 0.5 * float(pull @ x) - 0.5 * float(x @ r)
        bound = energy - 0.5 * float(r @ r) / quadratic.floor
        if energy <= high:
            high, d[F] = energy, x
        if bound >= low:
            low, below[F] = bound, x
        if high - low <= quadratic.rtol * high or state.negative is not None:
            break
    # What the recursion says is off by rounding of `own`, in float32 by more than the width: anew, from products.
    products = quadratic.operator.matmat(torch.stack([d, below], dim=1))
    r = products[F, 1]
    high = 0.5 * float(d @ products[:, 0])
    low = 0.5 * float(below @ products[:, 1]) - 0.5 * float(r @ r) / quadratic.floor
    return _bounded(d, min(max(0.0, low), high), high, quadratic.rtol)


def _bounded(shift: Tensor, low: float, high: float, rtol: float) -> Removal:
    narrow = high - low <= rtol * high
    hint = "allow more iterations or raise the damping"
    message = "" if narrow else f"the bracket [{low:.3g}, {high:.3g}] is wider than {rtol:.0e}; {hint}"
    outcome = Outcome.CONVERGED if narrow else Outcome.STOPPED
    return Removal(shift, high, low, high, outcome, (high - low) / high if high else 0.0, message)
