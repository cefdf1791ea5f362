"""Preconditioned conjugate gradients for positive definite operators."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.errors import InputError
from infprune.solvers.contract import Outcome, Solution, columns, residual
from infprune.solvers.spectrum import lanczos

Preconditioner = Callable[[LinearOperator], LinearOperator | None]
"""Makes an approximate inverse for an operator; None: the identity."""


@dataclass(frozen=True)
class ConjugateGradients:
    """Hestenes and Stiefel (1952), all right-hand sides in step. `rtol` bounds the recursive |r| / |b| of each.

    Negative curvature ends the iteration with `Outcome.INDEFINITE` and the damping that would cure it, from Lanczos
    started at the direction that was met.
    """

    rtol: float = 1e-8
    max_iterations: int = 1000
    preconditioner: Preconditioner | None = None

    def init(self, operator: LinearOperator) -> "PreparedCG":
        """Make the preconditioner."""
        return PreparedCG(operator, self, self.preconditioner(operator) if self.preconditioner else None)


@dataclass(frozen=True)
class Iterate:
    """One step: the solutions so far, their residuals, and a direction of negative curvature if one was met."""

    X: Tensor
    R: Tensor
    negative: Tensor | None = None


@dataclass(frozen=True)
class PreparedCG:
    """CG with its operator and preconditioner."""

    operator: LinearOperator
    settings: ConjugateGradients
    inverse: LinearOperator | None

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each column, until the last one has converged."""
        B = columns(rhs).to(self.operator.dtype)
        count, state = 0, Iterate(torch.zeros_like(B), B)
        for count, state in enumerate(iterates(self.operator, B, self.inverse)):
            small = state.R.norm(dim=0) <= self.settings.rtol * B.norm(dim=0)
            if state.negative is not None or bool(small.all()) or count >= self.settings.max_iterations:
                break
        return self._judged(state, count, B, rhs)

    def _judged(self, state: Iterate, count: int, B: Tensor, rhs: Tensor) -> Solution:
        error = residual(self.operator, state.X, B)
        value = state.X.reshape(rhs.shape)
        if state.negative is not None:
            return Solution(value, Outcome.INDEFINITE, count, error, _cure(self.operator, state.negative))
        # The recursive residual may run ahead of the true one by what rounding allows.
        if error <= 10 * max(self.settings.rtol, 100 * torch.finfo(B.dtype).eps):
            return Solution(value, Outcome.CONVERGED, count, error)
        return Solution(
            value,
            Outcome.STOPPED,
            count,
            error,
            f"residual {error:.1e} after {count} iterations, {self.settings.rtol:.0e} asked for; the curvature is "
            "ill-conditioned: raise the damping, precondition, or allow more iterations",
        )


def iterates(operator: LinearOperator, B: Tensor, inverse: LinearOperator | None = None) -> Iterator[Iterate]:
    """The iterates of CG on H X = B, from X = 0, without end; columns that have converged stay where they are.

    1/2 x^T H x - b^T x falls from one to the next, and 1/2 b^T x rises to 1/2 b^T H^-1 b.

    Raises:
        InputError: products are not finite.
    """
    X, R = torch.zeros_like(B), B.clone()
    Z = R if inverse is None else inverse.matmat(R).to(B.dtype)
    P, rz = Z.clone(), (R * Z).sum(0)
    while True:
        yield Iterate(X, R)
        HP = operator.matmat(P)
        curvature = (P * HP).sum(0)
        if not bool(torch.isfinite(curvature).all()):
            raise InputError("products with the curvature are not finite; check weights and data for NaN")
        noise = 8 * torch.finfo(B.dtype).eps * P.norm(dim=0) * HP.norm(dim=0)
        bad = (curvature < -noise) | ((curvature <= noise) & (rz > 0) & (HP.norm(dim=0) == 0))
        if bool(bad.any()):
            yield Iterate(X, R, P[:, int(bad.nonzero()[0, 0])])
            return
        step = torch.where(curvature > 0, rz / curvature.where(curvature > 0, 1.0), 0.0)
        X, R = X + step * P, R - step * HP
        Z = R if inverse is None else inverse.matmat(R).to(B.dtype)
        old, rz = rz, (R * Z).sum(0)
        P = Z + torch.where(old > 0, rz / old.where(old > 0, 1.0), 0.0) * P


def jacobi(operator: LinearOperator) -> LinearOperator:
    """The inverse of the diagonal; entries that are not positive count as one."""
    return Diagonal(operator.diagonal())


class Diagonal(LinearOperator):
    """Division by a diagonal `(n,)`."""

    def __init__(self, diagonal: Tensor) -> None:
        self._scale = 1.0 / diagonal.where(diagonal > 0, 1.0)
        self.shape = (len(diagonal), len(diagonal))
        self.dtype, self.device = diagonal.dtype, diagonal.device

    def matmat(self, V: Tensor) -> Tensor:
        """V / diagonal."""
        return self._scale[:, None] * V


def _cure(operator: LinearOperator, direction: Tensor) -> str:
    unit = direction / direction.norm()
    met = float(unit @ operator.matvec(unit))
    found = lanczos(operator, start=unit)
    return (
        f"CG met the negative curvature {met:.3g}; the least eigenvalue is about {found.low:.3g}: add a damping above "
        f"{max(found.curing, -1.1 * met):.3g}, take a semi-definite curvature (ggn), or use lsmr or normal-cg"
    )
