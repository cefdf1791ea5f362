"""Direct solves: Cholesky for positive definite curvature, LDL for any symmetric one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.operator import DENSE_LIMIT, LinearOperator
from infprune.errors import InputError
from infprune.solvers.contract import Outcome, Prepared, Solution, columns, lifting

ACCURATE = 1e-6  # relative residual up to which a direct solve counts as converged


@dataclass(frozen=True)
class Cholesky:
    """H = L L^T in float64. An indefinite H is an outcome, with the least eigenvalue and the damping that cures it."""

    limit: int = DENSE_LIMIT

    def init(self, operator: LinearOperator) -> Prepared:
        """Make the matrix dense and factorise it.

        Raises:
            ConfigError: the dense matrix is too large.
            InputError: it is not finite.
        """
        H = _dense(operator, self.limit)
        root, info = torch.linalg.cholesky_ex(H)
        if int(info) == 0:
            return Factorised(H, root)
        values = torch.linalg.eigvalsh(H)
        low, size = float(values[0]), float(values.abs().max())
        rounding = len(H) * torch.finfo(H.dtype).eps * size
        return Failed(
            Outcome.INDEFINITE if low < -rounding else Outcome.SINGULAR,
            f"Cholesky needs a positive definite matrix, its least eigenvalue is {low:.3g}; add a damping above "
            f"{max(-1.1 * low, lifting(size, H.dtype)):.3g}, or use ldl or lsmr",
        )


@dataclass(frozen=True)
class LDL:
    """H = L D L^T with pivoting (Bunch and Kaufman): symmetric, indefinite too; a stationary point."""

    limit: int = DENSE_LIMIT

    def init(self, operator: LinearOperator) -> Prepared:
        """Make the matrix dense and factorise it.

        Raises:
            ConfigError: the dense matrix is too large.
            InputError: it is not finite.
        """
        H = _dense(operator, self.limit)
        factors, pivots, info = torch.linalg.ldl_factor_ex(H)
        if int(info) != 0:
            return Failed(Outcome.SINGULAR, f"the matrix is singular; {_lifted(H)}, or use lsmr")
        return _FactorisedLDL(H, factors, pivots)


@dataclass(frozen=True)
class Factorised:
    """A positive definite matrix `(n, n)` with its Cholesky root."""

    matrix: Tensor
    root: Tensor

    def solve(self, rhs: Tensor) -> Solution:
        """Two triangular solves."""
        return _solved(self.matrix, torch.cholesky_solve(columns(rhs).to(self.root), self.root), rhs)

    def inverse(self) -> Tensor:
        """H^-1, dense."""
        return torch.cholesky_inverse(self.root)


@dataclass(frozen=True)
class _FactorisedLDL:
    matrix: Tensor
    factors: Tensor
    pivots: Tensor

    def solve(self, rhs: Tensor) -> Solution:
        return _solved(
            self.matrix, torch.linalg.ldl_solve(self.factors, self.pivots, columns(rhs).to(self.factors)), rhs
        )


@dataclass(frozen=True)
class Failed:
    """A factorisation that failed: every solve says so."""

    outcome: Outcome
    message: str

    def solve(self, rhs: Tensor) -> Solution:
        """No value."""
        return Solution(torch.full_like(rhs, torch.nan), self.outcome, 0, float("inf"), self.message)


def _solved(H: Tensor, X: Tensor, rhs: Tensor) -> Solution:
    B = columns(rhs).to(H)
    return _judged(X, (H @ X - B).norm(dim=0), B, rhs, _lifted(H))


def _lifted(H: Tensor) -> str:
    """Advice; no eigenvalue is above the largest sum of a column's magnitudes."""
    return f"add a damping above {lifting(float(H.abs().sum(0).max()), H.dtype):.3g}"


def _judged(X: Tensor, gap: Tensor, B: Tensor, rhs: Tensor, advice: str) -> Solution:
    scale = B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
    error = float((gap / scale).max()) if bool(torch.isfinite(X).all()) else float("inf")
    shaped = X.reshape(rhs.shape)
    if error <= ACCURATE:
        return Solution(shaped, Outcome.CONVERGED, 1, error)
    return Solution(
        shaped, Outcome.SINGULAR, 1, error, f"the matrix is singular to rounding (residual {error:.1e}); {advice}"
    )


def _dense(operator: LinearOperator, limit: int) -> Tensor:
    H = operator.to_dense(limit)
    if not bool(torch.isfinite(H).all()):
        raise InputError("the curvature is not finite; check weights and data for NaN")
    return 0.5 * (H + H.T)
