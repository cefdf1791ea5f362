"""The Neumann series of MU eq. 6, and LiSSA, its stochastic form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.solvers.contract import Outcome, Solution, columns, residual
from infprune.solvers.spectrum import largest

MARGIN = 1.05  # power iteration approaches the largest eigenvalue from below
GROWTH = 1e6  # |x| / |b s| beyond which the series has no limit


@dataclass(frozen=True)
class Neumann:
    r"""x_{j+1} = b / s + (I - H / s) x_j, which tends to H^-1 b if all eigenvalues lie in (0, 2 s) (MU eq. 6).

    The print has s = 1, which diverges for curvature above 2; here s is the largest eigenvalue by power iteration, with
    a margin. Full batches; `rtol` bounds |H x - b| / |b|.
    """

    rtol: float = 1e-8
    max_iterations: int = 10_000
    seed: int = 0

    def init(self, operator: LinearOperator) -> "PreparedNeumann":
        """Find the scale."""
        return PreparedNeumann(operator, self, MARGIN * largest(operator, seed=self.seed))


@dataclass(frozen=True)
class PreparedNeumann:
    """The series with its operator and scale s."""

    operator: LinearOperator
    settings: Neumann
    scale: float

    def solve(self, rhs: Tensor) -> Solution:
        """Sum the series for all columns."""
        B = columns(rhs).to(self.operator.dtype)
        X, bound = torch.zeros_like(B), B.norm(dim=0)
        scale = self.scale or 1.0
        for count in range(self.settings.max_iterations + 1):
            R = B - self.operator.matmat(X)
            length = R.norm(dim=0)
            if not bool((length <= GROWTH * bound).all()):
                return Solution(X.reshape(rhs.shape), Outcome.DIVERGED, count, float("inf"), _DIVERGED)
            if bool((length <= self.settings.rtol * bound).all()):
                return Solution(X.reshape(rhs.shape), Outcome.CONVERGED, count, residual(self.operator, X, B))
            if count < self.settings.max_iterations:
                X = X + R / scale
        error = residual(self.operator, X, B)
        return Solution(
            X.reshape(rhs.shape),
            Outcome.STOPPED,
            count,
            error,
            f"residual {error:.1e} after {count} terms; it needs about condition number x log(1 / rtol) of them: "
            "raise the damping or use cg",
        )


_DIVERGED = (
    "the series grows, so the curvature has a negative eigenvalue; add a damping, take a semi-definite one (ggn), "
    "or use lsmr"
)


@dataclass(frozen=True)
class LiSSA:
    r"""The same series with the curvature of one random mini-batch per term (Agarwal et al. 2017; MU section 4.2).

    x_{j+1} = b / s + (I - H_j / s) x_j with H_j one of `operator.parts`, s above every part's largest eigenvalue. The
    iterate keeps fluctuating, so the second half of the terms is averaged, and so are `repeats` runs. `residual` is
    measured with the full operator; below `rtol` the outcome is CONVERGED, else STOPPED: noise decides, not terms
    alone.
    """

    terms: int = 1000
    repeats: int = 1
    rtol: float = 0.1
    seed: int = 0

    def init(self, operator: LinearOperator) -> "PreparedLiSSA":
        """Find the scale: the largest eigenvalue of any part, by power iteration on each."""
        parts = tuple(operator.parts)
        return PreparedLiSSA(operator, parts, self, MARGIN * max(largest(p, 30, 0.02, self.seed) for p in parts))


@dataclass(frozen=True)
class PreparedLiSSA:
    """LiSSA with its mini-batches and scale s."""

    operator: LinearOperator
    parts: tuple[LinearOperator, ...]
    settings: LiSSA
    scale: float

    def solve(self, rhs: Tensor) -> Solution:
        """Average the second half of the terms of every run."""
        B = columns(rhs).to(self.operator.dtype)
        generator = torch.Generator().manual_seed(self.settings.seed)
        total, scale, half = torch.zeros_like(B), self.scale or 1.0, self.settings.terms // 2
        for _ in range(self.settings.repeats):
            X = torch.zeros_like(B)
            for j in range(self.settings.terms):
                pick = int(torch.randint(len(self.parts), (), generator=generator))
                X = X + (B - self.parts[pick].matmat(X)) / scale
                if j >= half:
                    total += X
        X = total / (self.settings.repeats * (self.settings.terms - half))
        if not bool(torch.isfinite(X).all()):
            return Solution(X.reshape(rhs.shape), Outcome.DIVERGED, self.settings.terms, float("inf"), _DIVERGED)
        error = residual(self.operator, X, B)
        if error <= self.settings.rtol:
            return Solution(X.reshape(rhs.shape), Outcome.CONVERGED, self.settings.terms, error)
        if error > GROWTH:
            return Solution(X.reshape(rhs.shape), Outcome.DIVERGED, self.settings.terms, error, _DIVERGED)
        return Solution(
            X.reshape(rhs.shape),
            Outcome.STOPPED,
            self.settings.terms,
            error,
            f"residual {error:.1e} after {self.settings.terms} terms; take more terms, larger batches or more damping",
        )
