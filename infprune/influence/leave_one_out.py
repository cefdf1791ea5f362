"""What the influence of a sample predicts, found the long way: the minimum without that sample."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infprune.curvature.objective import Objective
from infprune.errors import ConfigError
from infprune.forward import rows
from infprune.influence.retraining import minimise
from infprune.solvers.contract import Prepared

SLOW = 0.9  # a chord step that leaves more of the gradient is given up


@dataclass(frozen=True)
class Without:
    """The minimum `(P,)` without a sample, its gradient's norm, steps taken, and whether it is within the tolerance.

    `newton`: the chord steps did not converge, so that Newton's method with a line search took over.
    """

    theta: Tensor
    gradient_norm: float
    iterations: int
    converged: bool
    newton: bool


def leave_one_out(
    objective: Objective,
    theta: Tensor,
    index: int,
    curvature: Prepared,
    *,
    tolerance: float = 1e-9,
    max_iterations: int = 100,
) -> Without:
    r"""Argmin R(theta) - l(z; theta) / N, from the minimum of R: sample z of the N gone, the ridge unchanged.

    .. math:: \theta \leftarrow \theta - H^{-1} (\nabla R(\theta) - \tfrac1N \nabla \ell(z; \theta))

    H is factorised once, at the minimum with all samples (the chord method), so a step costs one gradient; where that
    does not converge, `minimise` takes over from the start. With several local minima: the one the start leads to.

    Args:
        objective: R of all samples, z among them; float64.
        theta: its minimum `(P,)`.
        index: of z, counted over the objective's batches.
        curvature: a solver prepared with the Hessian of R at theta, the ridge included.
        tolerance: on the norm of the gradient.
        max_iterations: chord steps, and Newton steps after them.

    Raises:
        ConfigError: there is no such sample or no other, or the Newton steps need too large a matrix.
    """
    count, (alone, others) = objective.samples(), _parted(objective, index)
    at, last = theta, float("inf")
    for step in range(max_iterations + 1):
        gradient = objective.gradient(at) - alone.gradient(at) / count
        norm = float(gradient.norm())
        if norm <= tolerance:
            return Without(at, norm, step, converged=True, newton=False)
        if not norm <= SLOW * last:
            break
        solution, last = curvature.solve(gradient), norm
        at = at - solution.value.to(at)
    found = minimise(others, theta, tolerance=tolerance, max_iterations=max_iterations)
    return Without(found.theta, found.gradient_norm, found.iterations, found.converged, newton=True)


def _parted(objective: Objective, index: int) -> tuple[Objective, Objective]:
    """The sample as a batch of its own, without ridge, and all others.

    The mean of the others is over N - 1, so their ridge grows alike: R - l(z) / N times N / (N - 1).
    """
    others, alone, start = [], None, 0
    for x, y in objective.batches:
        here = torch.arange(start, start + len(y), device=y.device) == index
        start += len(y)
        if bool(here.any()):
            alone = (rows(x, here), y[here])
        if not bool(here.all()):
            others.append((rows(x, ~here), y[~here]))
    if alone is None or not others:
        raise ConfigError(f"expected a sample from 0 to {start - 1}, and others beside it, got {index}")
    rest = replace(objective.on(others), ridge=objective.ridge * start / (start - 1))
    return replace(objective.on([alone]), ridge=0.0), rest
