"""The seam of an unlearning method: the loss near the trained weights, and what one change of them takes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infprune.curvature.algebra import Damped, Gram, Restricted, principal
from infprune.curvature.operator import LinearOperator
from infprune.errors import ConfigError
from infprune.solvers import SOLVERS
from infprune.solvers.contract import Solution, Solver

SQUARE_ONLY = ("normal-cg", "neumann", "lissa")


@dataclass(frozen=True)
class Solving:
    """Which of `SOLVERS` solves, and how far. `damping` is absolute, in the unit of H, for squares and rectangles."""

    name: str
    damping: float = 0.0
    rtol: float = 1e-3
    max_iterations: int = 50

    def least_squares(self, M: LinearOperator, b: Tensor) -> Solution:
        """argmin_x |M x - b|^2 + damping^2 |x|^2: LSMR and Landweber as they are, others by the normal equations.

        Raises:
            ConfigError: a solver for square curvature alone.
        """
        if self.name in SQUARE_ONLY:
            raise ConfigError(f"unlearn.solver: {self.name} solves square systems alone; gif takes lsmr or landweber")
        if self.name in ("lsmr", "landweber"):
            made = SOLVERS[self.name](rtol=self.rtol, max_iterations=self.max_iterations, damping=self.damping)
            return _usable(made.init(M).solve(b))
        return _usable(self._made().init(Gram(M, self.damping**2)).solve(M.T.matvec(b)))

    def square(self, H: LinearOperator, b: Tensor) -> Solution:
        """(H + damping I)^-1 b."""
        return _usable(self._made().init(Damped(H, self.damping)).solve(b))

    def _made(self) -> Solver:
        if self.name in ("cholesky", "ldl"):
            return SOLVERS[self.name]()
        if self.name == "normal-cg":  # its own damping is in units of H squared
            return SOLVERS[self.name](damping=0.0, rtol=self.rtol, max_iterations=self.max_iterations)
        return SOLVERS[self.name](rtol=self.rtol, max_iterations=self.max_iterations)


def _usable(found: Solution) -> Solution:
    if not found.outcome.usable:
        raise ConfigError(f"the curvature is {found.outcome}: {found.message}; set unlearn.damping, or use lsmr")
    return found


@dataclass(frozen=True)
class Linearised:
    r"""The training loss and the forget objective to second order around the weights, over all parameters `(P,)`.

    `H`: Hessian of the mean training loss R. `g`: gradient of the forget objective q, a mean over the forget set that
    is to be *raised*: the loss at the labels that were learned, less that at the right labels where these are known.
    `K`: Hessian of q. `positions`: T, the entries that may change. `share`: p = forget samples / training samples.

    Without the forget set (or with its right labels) the loss is R - p q; near a minimum of R its minimum lies at
    theta + p H^-1 g. Methods return x in theta + p x: a step length of 1 is what theory says.
    """

    H: LinearOperator
    g: Tensor
    positions: Tensor
    share: float
    solving: Solving
    K: LinearOperator | None = None

    @property
    def columns(self) -> Restricted:
        """H_{:,T} `(P, k)`."""
        return Restricted(self.H, None, self.positions)

    @property
    def block(self) -> Restricted:
        """H_TT `(k, k)`."""
        return principal(self.H, self.positions)

    def spread(self, x: Tensor) -> Tensor:
        """Entries of T as a vector of all parameters."""
        found = torch.zeros_like(self.g)
        found[self.positions.to(found.device)] = x.to(found)
        return found


@dataclass(frozen=True)
class Shift:
    """A direction x `(P,)` and the solve behind it."""

    value: Tensor
    solution: Solution

    @classmethod
    def of(cls, value: Tensor, solution: Solution) -> "Shift":
        """Keep how the solve went, without its own vector."""
        return cls(value, replace(solution, value=value))
