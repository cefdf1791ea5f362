"""Extreme eigenvalues of a symmetric operator that is only applied."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.errors import InputError

EXHAUSTED = 1e3  # epsilons below which the next Lanczos vector would be rounding alone


@dataclass(frozen=True)
class Spectrum:
    """Estimates of the least and the greatest eigenvalue.

    Within `low_error` of `low` there is an eigenvalue, none of the estimates lies outside the spectrum, and so the
    least eigenvalue is at most `low`; in the same way for `high`.
    """

    low: float
    high: float
    low_error: float
    high_error: float
    iterations: int

    @property
    def curing(self) -> float:
        """A damping that makes H + damping I positive definite, as far as the estimate goes; 0 if none is needed."""
        if self.low > self.low_error:
            return 0.0
        return 1.1 * (self.low_error - self.low) + 1e-12 * max(abs(self.high), abs(self.low))


def lanczos(operator: LinearOperator, steps: int = 40, seed: int = 0, start: Tensor | None = None) -> Spectrum:
    """Lanczos with full reorthogonalisation: `steps` products, `steps` vectors of memory.

    Args:
        operator: symmetric.
        steps: at most; fewer where the space is exhausted.
        seed: of the random start.
        start: another start, e.g. a direction of negative curvature.

    Raises:
        InputError: products are not finite.
    """
    size = operator.shape[0]
    steps = min(steps, size)
    q = (
        torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if start is None
        else start
    )
    q = (q / q.norm()).to(operator.device, operator.dtype)
    basis, alphas, betas = [q], [], []
    for _ in range(steps):
        v = operator.matvec(basis[-1])
        if not bool(torch.isfinite(v).all()):
            raise InputError("products with the curvature are not finite; check weights and data for NaN")
        alphas.append(v @ basis[-1])
        Q = torch.stack(basis)
        for _ in range(2):  # once is not enough in floating point (Parlett)
            v = v - Q.T @ (Q @ v)
        beta = v.norm()
        betas.append(beta)
        if len(basis) == steps or beta <= EXHAUSTED * torch.finfo(v.dtype).eps * max(map(abs, [*alphas, *betas])):
            break
        basis.append(v / beta)
    T = torch.diag(torch.stack(alphas).double().cpu())
    off = torch.stack(betas).double().cpu()[: len(alphas) - 1]
    values, vectors = torch.linalg.eigh(T + torch.diag(off, 1) + torch.diag(off, -1))
    errors = float(betas[-1]) * vectors[-1].abs()
    return Spectrum(float(values[0]), float(values[-1]), float(errors[0]), float(errors[-1]), len(alphas))


def largest(operator: LinearOperator, iterations: int = 100, rtol: float = 1e-3, seed: int = 0) -> float:
    """The largest |eigenvalue| of a symmetric operator by power iteration; a lower bound that rises to it.

    It may stand still before it has found an eigenvalue, as one twice the others holds 1 / n of a random start and
    gains a factor 4 per product. So `rtol` counts after log_4 n products and some more.
    """
    least = 5 + math.ceil(math.log(operator.shape[0], 4))
    v = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v = (v / v.norm()).to(operator.device, operator.dtype)
    found = 0.0
    for count in range(iterations):
        moved = operator.matvec(v)
        before, found = found, float(moved.norm())
        if not found < float("inf"):
            raise InputError("products with the curvature are not finite; check weights and data for NaN")
        if found == 0.0 or (count >= least and abs(found - before) <= rtol * found):
            break
        v = moved / found
    return found
