r"""The multi-stage influence function: one sweep back through both stages, then a dot product per sample.

MS is *Multi-Stage Influence Function*, equations (1) to (14). The first stage minimises G(W, U) over m samples z, the
second F(Theta; W) with the shared W held (case 1), or alpha |W - W_1|^2 + F(W, Theta) (case 2); f is the loss of test
samples. A layer may be held while others move, so both cases are one:

.. math::
    y &= M^{-1} \nabla_A f, \qquad M = F_{AA} + 2 \alpha I_{W \cap A} \\
    q_B &= \nabla_B f - F_{BA} y, \qquad q_{W \cap A} = 2 \alpha y_W \\
    I_z &= - [q, 0]^\top (\partial^2 G)^{-1} \nabla g(z)

with A the parameters that the second stage moved and B those that it held. Where the print differs from this, and why
it is wrong there: docs/decisions/0010-multi-stage.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from infprune.curvature.algebra import Damped, Restricted, Ridged
from infprune.curvature.hessian import Hessian
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator
from infprune.curvature.space import ParameterSpace
from infprune.multistage.sharing import Sharing, positions
from infprune.solvers.contract import Outcome, Solution, Solver

Solve = Callable[[LinearOperator, Tensor], Solution]
"""How a stage's curvature is inverted on columns `(P, k)`."""


@dataclass(frozen=True)
class Swept:
    """What the sweep leaves: a direction `(P, k)` in the first stage's parameters, and how its two solves went.

    A sample's influence is the slope of its loss along it: `objective.slopes(theta, direction)`.
    """

    direction: Tensor
    finetune: Solution
    pretrain: Solution


def swept(
    pretrain: Objective, finetune: Objective, slopes: Tensor, parts: Sharing, alpha: float, ways: tuple[Solve, Solve]
) -> Swept:
    """Go back from gradients of test losses through the second stage and the first.

    Args:
        pretrain: G at the parameters that the first stage found, over all of them.
        finetune: F at those of the second stage, over all of them, without the ridge on what is held.
        slopes: gradients of test losses in the second stage's parameters, `(P_F, k)`.
        parts: how the two are related.
        alpha: of Eq. 12; without effect in case 1.
        ways: how to invert the curvature of the first stage, and of the second.
    """
    q, later = through_finetuning(finetune, slopes, parts, alpha, ways[1])
    rhs = slopes.new_zeros(parts.pretrain.size, slopes.shape[1])
    rhs[parts.origin()] = q
    earlier = ways[0](_regularised(pretrain), rhs)
    return Swept(-earlier.value, later, earlier)


def through_finetuning(
    finetune: Objective, slopes: Tensor, parts: Sharing, alpha: float, solve: Solve
) -> tuple[Tensor, Solution]:
    """The total derivative of test losses in the W that fine-tuning began with: `(P_W, k)`, and the solve."""
    free, held = parts.there(parts.free), parts.there(parts.held)
    inner = replace(finetune, space=ParameterSpace.of(finetune.module, parts.free))
    moved = positions(inner.space, parts.moved)
    M = _regularised(inner)
    found = solve(Ridged(M, moved, 2 * alpha) if len(moved) else M, slopes[free])
    q = slopes.clone()
    q[parts.there(parts.moved)] = 2 * alpha * found.value[moved]
    if len(held):
        q[held] -= Restricted(Hessian(finetune), held, free).matmat(found.value)
    return q[parts.there(parts.shared)], found


def solving(solver: Solver, damping: float = 0.0) -> Solve:
    """A solver on the curvature plus a damping."""

    def solve(operator: LinearOperator, rhs: Tensor) -> Solution:
        return solver.init(Damped(operator, damping) if damping else operator).solve(rhs)

    return solve


def identity(operator: LinearOperator, rhs: Tensor) -> Solution:
    """The control of figure 4: every inverse Hessian is the identity."""
    del operator
    return Solution(rhs, Outcome.CONVERGED, 0, 0.0)


def _regularised(objective: Objective) -> LinearOperator:
    H = Hessian(objective)
    return Damped(H, objective.ridge) if objective.ridge else H
