"""The seam of a solver: prepare once for an operator, solve for many right-hand sides, tell how it went."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.errors import ConfigError, InputError


class Outcome(StrEnum):
    """How a solve ended."""

    CONVERGED = "converged"  # the residual is within the tolerance
    STOPPED = "stopped"  # out of iterations; the value is the best so far
    INDEFINITE = "indefinite"  # negative curvature was met where none may be
    SINGULAR = "singular"  # no inverse to rounding
    DIVERGED = "diverged"  # the iteration grows

    @property
    def usable(self) -> bool:
        """Whether the value solves the system, if only roughly; one that was stopped may be good enough."""
        return self in (Outcome.CONVERGED, Outcome.STOPPED)


@dataclass(frozen=True)
class Solution:
    """`value` like the right-hand side, and what it is worth.

    `residual`: the largest |H x - b| / |b| over right-hand sides, measured at the end (not an estimate of the
    iteration), except where a solver says otherwise. `message`: likely cause and next step where it did not converge.
    """

    value: Tensor
    outcome: Outcome
    iterations: int
    residual: float
    message: str = ""

    @property
    def converged(self) -> bool:
        """Whether the value can be used as it is."""
        return self.outcome is Outcome.CONVERGED

    def required(self) -> Tensor:
        """The value of a solve that must have converged.

        Raises:
            ConfigError: it did not; the message says what to change.
        """
        if not self.converged:
            raise ConfigError(f"the curvature cannot be solved with ({self.outcome}): {self.message}")
        return self.value


class Prepared(Protocol):
    """A solver with its operator."""

    def solve(self, rhs: Tensor) -> Solution:
        """Solve H x = rhs for `(n,)`, or for each column of `(n, k)`."""


class Solver(Protocol):
    """How to solve; frozen settings."""

    def init(self, operator: LinearOperator) -> Prepared:
        """Do what does not depend on the right-hand side."""


def lifting(size: float, dtype: torch.dtype) -> float:
    """A damping that makes a singular, semi-definite matrix with this greatest eigenvalue one to solve with."""
    return size * max(1e-6, 100 * torch.finfo(dtype).eps)


OVERFLOW = 1e30  # entries of a diverged solution from which on products may overflow


def columns(rhs: Tensor) -> Tensor:
    """The right-hand side as `(n, k)`, checked.

    Raises:
        InputError: it holds NaN or infinity.
    """
    if not bool(torch.isfinite(rhs).all()):
        raise InputError("the right-hand side of a solve is not finite; check weights and data for NaN")
    return rhs if rhs.dim() == 2 else rhs[:, None]


def residual(operator: LinearOperator, X: Tensor, B: Tensor) -> float:
    """The largest relative residual |H x - b| / |b| over columns; 0 for b = 0 and x = 0.

    Raises:
        InputError: products with the operator are not finite.
    """
    gap = (operator.matmat(X) - B).norm(dim=0)
    if not bool(torch.isfinite(gap).all()):
        if float(X.abs().max()) < OVERFLOW:
            raise InputError("products with the curvature are not finite; check weights and data for NaN")
        return float("inf")
    scale = B.norm(dim=0)
    return float(torch.where(scale > 0, gap / scale.clamp_min(torch.finfo(B.dtype).tiny), gap).max())
