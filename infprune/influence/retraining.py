"""What influence predicts, found the long way: the minimum with a group of parameters pinned at zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.hessian import Hessian
from infprune.curvature.objective import Objective

SHRINK = 0.5
SUFFICIENT = 1e-4  # Armijo's share of the predicted decrease


@dataclass(frozen=True)
class Minimum:
    """A point `(P,)`, R there, the norm of the free gradient, Newton steps; `converged`: within the tolerance."""

    theta: Tensor
    value: float
    gradient_norm: float
    iterations: int
    converged: bool


def minimise(
    objective: Objective,
    start: Tensor,
    pinned: Tensor | None = None,
    *,
    tolerance: float = 1e-10,
    max_iterations: int = 100,
) -> Minimum:
    r"""Argmin R(theta) subject to theta_S = 0, by Newton's method with a line search, to |grad_F R| <= `tolerance`.

    Steps solve |H|_FF d = -g_F: the Hessian with its negative eigenvalues turned and small ones lifted, so that they go
    down at saddles too. Dense: for small problems. The minimum is the one that the start leads to; there is but one
    where R is strictly convex.

    Args:
        objective: R; float64 parameters, or the tolerance is out of reach.
        start: `(P,)`; its pinned entries count as zero.
        pinned: positions S; None: none.
        tolerance: on the Euclidean norm of the free gradient.
        max_iterations: Newton steps.

    Raises:
        ConfigError: too many parameters for a dense Hessian.
    """
    theta = start.detach().clone()
    free = torch.ones(len(theta), dtype=torch.bool, device=theta.device)
    if pinned is not None:
        free[pinned] = False
        theta[pinned] = 0
    F = free.nonzero()[:, 0]
    value, gradient = objective.value(theta), objective.gradient(theta)[F]
    best, lowest, stuck = float(gradient.norm()), value, 0
    for count in range(max_iterations + 1):
        norm = float(gradient.norm())
        stuck = 0 if norm < 0.9 * best or value < lowest - _noise(theta, lowest) else stuck + 1
        best, lowest = min(best, norm), min(lowest, value)
        if norm <= tolerance or count == max_iterations or not len(F) or stuck > 8:
            break
        step = _newton(_curvature(objective, theta, F), gradient)
        theta, value, gradient = _searched(objective, theta, F, step, value, gradient)
    return Minimum(theta, value, norm, count, norm <= tolerance)


def distance(objective: Objective, theta: Tensor) -> float:
    """Length of the next Newton step, relative to |theta|.

    Not small where a loss falls for ever (separable data): there the gradient vanishes without a minimum.
    """
    F = torch.arange(len(theta), device=theta.device)
    step = _newton(_curvature(objective, theta, F), objective.gradient(theta))
    return float(step.norm() / theta.norm().clamp_min(torch.finfo(theta.dtype).tiny))


def _curvature(objective: Objective, theta: Tensor, F: Tensor) -> Tensor:
    H = Hessian(objective, theta).to_dense()[F[:, None], F]
    H.diagonal().add_(objective.ridge)
    return H


def _newton(H: Tensor, gradient: Tensor) -> Tensor:
    root, info = torch.linalg.cholesky_ex(H)
    if int(info) == 0:
        return -torch.cholesky_solve(gradient[:, None].to(H), root)[:, 0].to(gradient)
    values, vectors = torch.linalg.eigh(H)
    lifted = values.abs().clamp_min(1e-8 * values.abs().max())
    step: Tensor = vectors @ ((vectors.T @ gradient.to(H)) / lifted)
    return -step.to(gradient)


def _searched(
    objective: Objective, theta: Tensor, F: Tensor, step: Tensor, value: float, gradient: Tensor
) -> tuple[Tensor, float, Tensor]:
    """Halve the step until R falls enough, but for rounding: near the minimum R no longer tells."""
    slope, scale, noise = float(gradient @ step), 1.0, _noise(theta, value)
    while True:
        trial = theta.clone()
        trial[F] += scale * step
        found = objective.value(trial)
        if found <= value + SUFFICIENT * scale * slope + noise or scale < 1e-10:
            return trial, found, objective.gradient(trial)[F]
        scale *= SHRINK


def _noise(theta: Tensor, value: float) -> float:
    """By how much values differ for rounding."""
    return 4 * torch.finfo(theta.dtype).eps * abs(value)
