"""The iteration for the normal equations that the generalized influence functions are computed with."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.algebra import Gram
from infprune.curvature.operator import LinearOperator
from infprune.solvers.contract import Outcome, Solution, columns
from infprune.solvers.spectrum import largest

SAFETY = 0.55  # s^2 over the largest eigenvalue of M^T M; .5 is the limit, power iteration comes from below
GROWTH = 1e6  # of the normal residual, beyond which the iteration has no limit


@dataclass(frozen=True)
class Landweber:
    r"""x_{j+1} = x_j + (M^T (b - M x_j) - damping^2 x_j) / s^2, which tends to argmin |M x - b|^2 + damping^2 |x|^2.

    With M = H_{:,T} it is the iteration of the generalized influence functions (arXiv 2312.05586),
    v + x - P_T (H/s)^2 x with v = P_T (H/s) (g/s): it converges for every symmetric H, indefinite or not, once s^2
    exceeds half the largest eigenvalue of P_T H^2 P_T + damping^2. Here s comes from power iteration, not from trial
    and error. It takes about (condition of M)^2 iterations; LSMR takes about its root and finds the same. `rtol` bounds
    |M^T r| / |M^T b|, which is also the `residual` of its solutions.
    """

    rtol: float = 1e-8
    max_iterations: int = 10_000
    damping: float = 0.0
    seed: int = 0

    def init(self, operator: LinearOperator) -> "PreparedLandweber":
        """Find the scale s^2."""
        top = largest(Gram(operator, self.damping**2), seed=self.seed)
        return PreparedLandweber(operator, self, SAFETY * top)


@dataclass(frozen=True)
class PreparedLandweber:
    """The iteration with its operator and scale s^2."""

    operator: LinearOperator
    settings: Landweber
    scale: float

    def solve(self, rhs: Tensor) -> Solution:
        """Iterate for all columns together."""
        B = columns(rhs).to(self.operator.dtype)
        M, damping = self.operator, self.settings.damping
        start = M.T.matmat(B)
        bound, X, R = start.norm(dim=0), torch.zeros_like(start), start
        shape, scale = (M.shape[1], *rhs.shape[1:]), self.scale or 1.0
        for count in range(self.settings.max_iterations + 1):
            length = R.norm(dim=0)
            if not bool((length <= GROWTH * bound).all()):
                return Solution(X.reshape(shape), Outcome.DIVERGED, count, math.inf, _DIVERGED)
            if bool((length <= self.settings.rtol * bound).all()):
                return Solution(X.reshape(shape), Outcome.CONVERGED, count, _share(length, bound))
            if count < self.settings.max_iterations:
                X = X + R / scale
                R = M.T.matmat(B - M.matmat(X)) - damping**2 * X
        error = _share(length, bound)
        return Solution(
            X.reshape(shape),
            Outcome.STOPPED,
            count,
            error,
            f"normal residual {error:.1e} after {count} iterations; it needs about condition number squared of them: "
            "raise the damping, or use lsmr",
        )


_DIVERGED = "the iteration grows: power iteration missed the largest eigenvalue; use lsmr"


def _share(length: Tensor, bound: Tensor) -> float:
    return float((length / bound.clamp_min(torch.finfo(bound.dtype).tiny)).max())
