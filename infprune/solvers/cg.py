"""Preconditioned conjugate gradients for positive definite operators."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.errors import InputError
from infprune.solvers.contract import Outcome, Solution, columns, lifting, residual
from infprune.solvers.spectrum import lanczos, largest

Preconditioner = Callable[[LinearOperator], LinearOperator | None]
"""Makes an approximate inverse for an operator; None: the identity."""

NOISE = 8  # epsilons of the steepest curvature met, up to which curvature counts as zero


@dataclass(frozen=True)
class ConjugateGradients:
    """Hestenes and Stiefel (1952), all right-hand sides in step. `rtol` bounds the recursive |r| / |b| of each.

    Negative curvature ends the iteration with `Outcome.INDEFINITE`, curvature that is zero to rounding with
    `Outcome.SINGULAR`, both with a damping that would cure it, from Lanczos started at the direction that was met.
    """

    rtol: float = 1e-8
    max_iterations: int = 1000
    preconditioner: Preconditioner | None = None

    def init(self, operator: LinearOperator) -> "PreparedCG":
        """Make the preconditioner."""
        return PreparedCG(operator, self, self.preconditioner(operator) if self.preconditioner else None)


@dataclass(frozen=True)
class Iterate:
    """One step: the solutions so far, their residuals, and a direction without positive curvature if one was met."""

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
        B, rtol = columns(rhs).to(self.operator.dtype), self.settings.rtol
        count, state, small = 0, Iterate(torch.zeros_like(B), B), False
        for count, state in enumerate(iterates(self.operator, B, self.inverse, rtol)):
            small = bool((state.R.norm(dim=0) <= rtol * B.norm(dim=0)).all())
            if small or count >= self.settings.max_iterations:
                break
        value, error = state.X.reshape(rhs.shape), residual(self.operator, state.X, B)
        # The recursive residual may run ahead of the true one by what rounding allows.
        if small and error <= 10 * max(rtol, 100 * torch.finfo(B.dtype).eps):
            return Solution(value, Outcome.CONVERGED, count, error)
        if state.negative is not None:
            outcome, message = _diagnosis(self.operator, state.negative)
            return Solution(value, outcome, count, error, message)
        message = (
            f"residual {error:.1e} after {count} iterations, {rtol:.0e} asked for; the curvature is ill-conditioned: "
            "raise the damping, precondition, or allow more iterations"
        )
        return Solution(value, Outcome.STOPPED, count, error, message)


def iterates(
    operator: LinearOperator, B: Tensor, inverse: LinearOperator | None = None, rtol: float = 0.0
) -> Iterator[Iterate]:
    """The iterates of CG on H X = B, from X = 0, until no column moves.

    1/2 x^T H x - b^T x falls from one to the next, and 1/2 b^T x rises to 1/2 b^T H^-1 b. A column stays where it is
    once |r| <= rtol |b|, or once it meets a direction whose curvature is not positive to rounding; at a negative one
    all end.

    Raises:
        InputError: products are not finite.
    """
    X, R, goal, negative = torch.zeros_like(B), B.clone(), rtol * B.norm(dim=0), None
    Z = R if inverse is None else inverse.matmat(R).to(B.dtype)
    P, rz = Z.clone(), (R * Z).sum(0)
    # |p|^2 in the norm of the preconditioner, by recurrence, as r is orthogonal to the p before
    square, steepest = rz.clone(), rz.new_zeros(())
    yield Iterate(X, R)
    while bool((busy := (R.norm(dim=0) > goal) & P.any(dim=0)).any()):
        P = P.where(busy, 0.0)
        HP = operator.matmat(P)
        curvature = (P * HP).sum(0)
        if not bool(torch.isfinite(curvature).all()):
            raise InputError("products with the curvature are not finite; check weights and data for NaN")
        quotient = torch.where(busy, curvature / square, torch.inf)
        steepest = quotient.where(busy, 0.0).abs().max().maximum(steepest)
        noise = NOISE * torch.finfo(B.dtype).eps * steepest
        moving = busy & (quotient > noise)
        if bool((busy & ~moving).any()):
            negative = P[:, int(quotient.argmin())]
        if bool((quotient < -noise).any()):
            yield Iterate(X, R, negative)
            return
        step = torch.where(moving, rz / curvature, 0.0)
        X, R = X + step * P, R - step * HP
        Z = R if inverse is None else inverse.matmat(R).to(B.dtype)
        old, rz = rz, (R * Z).sum(0)
        turn = torch.where(moving, rz / old, 0.0)
        P, square = (Z + turn * P).where(moving, 0.0), rz + turn.square() * square
        yield Iterate(X, R, negative)


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


def _diagnosis(operator: LinearOperator, direction: Tensor) -> tuple[Outcome, str]:
    """What a direction without positive curvature says of the operator."""
    unit = direction / direction.norm()
    met = float(unit @ operator.matvec(unit))
    found = lanczos(operator, start=unit)
    low, size = min(found.low, met), max(abs(found.low), abs(found.high), largest(operator))
    damping = max(found.curing, -1.1 * met, lifting(size, operator.dtype))
    if low < -NOISE * torch.finfo(operator.dtype).eps * size:
        return Outcome.INDEFINITE, (
            f"CG met the curvature {met:.3g}; the least eigenvalue is about {low:.3g}: add a damping above "
            f"{damping:.3g}, take a semi-definite curvature (ggn), or use lsmr or normal-cg"
        )
    return Outcome.SINGULAR, (
        f"the curvature is singular to rounding (CG met {met:.1e}, the greatest eigenvalue is about {size:.3g}); add a "
        f"damping above {damping:.3g}, or use lsmr"
    )
