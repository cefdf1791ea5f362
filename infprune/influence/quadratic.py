"""What every form of Theorem 1 looks at: a quadratic of the parameters around a minimum, with the means to solve."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.solvers.contract import Outcome, Prepared, Solver
from infprune.solvers.direct import Factorised


@dataclass(frozen=True)
class Quadratic:
    r"""R(theta + d) - R(theta) = 1/2 d^T H d, H positive definite; the gradient at theta counts as zero (MU eq. 14).

    `operator` is H with its damping, `theta` `(P,)` in its dtype. `floor`: a number that no eigenvalue of H is below,
    or None where nobody knows: the damping, if the curvature without it is semi-definite. `solver`: how to solve; a
    Cholesky solver makes the matrix and its inverse once, for all groups. `rtol`, `steps`: the relative width at which
    a bracket is narrow enough, and after how many steps it is given as it is.
    """

    operator: LinearOperator
    theta: Tensor
    solver: Solver
    floor: float | None = None
    rtol: float = 1e-3
    steps: int = 200

    @cached_property
    def prepared(self) -> Prepared:
        """The solver with H."""
        return self.solver.init(self.operator)

    @cached_property
    def matrix(self) -> Tensor | None:
        """H `(P, P)`, if the solver made it dense."""
        return self.prepared.matrix if isinstance(self.prepared, Factorised) else None

    @cached_property
    def inverse(self) -> Tensor | None:
        """H^-1 `(P, P)`, if the solver made H dense."""
        return self.prepared.inverse() if isinstance(self.prepared, Factorised) else None

    def energy(self, d: Tensor) -> float:
        """1/2 d^T H d."""
        product = self.operator.matvec(d) if self.matrix is None else self.matrix @ d
        return 0.5 * float(d @ product)

    def rest(self, S: Tensor) -> Tensor:
        """The positions that are not in S."""
        free = torch.ones(len(self.theta), dtype=torch.bool, device=self.theta.device)
        free[S] = False
        return free.nonzero()[:, 0]


@dataclass(frozen=True)
class Removal:
    """What a form predicts for a group that is pinned at zero while all other parameters adapt.

    `shift`: dtheta `(P,)`. `change`: of the mean loss, in its unit (nats), >= 0. `low` and `high` bound the change of
    the quadratic where the form gives bounds. `outcome`, `residual`, `message`: of the solve behind it.
    """

    shift: Tensor
    change: float
    low: float | None = None
    high: float | None = None
    outcome: Outcome = Outcome.CONVERGED
    residual: float = 0.0
    message: str = ""
