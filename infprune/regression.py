"""Ridge regression from second moments, its damping chosen on held-out samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.kronecker import wide

DAMPINGS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Moments:
    """Sums over columns, per group: `gram` = X X^T `(G, D, D)`, `cross` = Y X^T `(G, O, D)`, `energy` = |Y|^2."""

    gram: Tensor
    cross: Tensor
    energy: float

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.gram + other.gram, self.cross + other.cross, self.energy + other.energy)

    def residual(self, weight: Tensor) -> float:
        """|Y - W X|^2 / |Y|^2: the share of the target's energy that `weight` `(G, O, D)` does not explain."""
        error = self.energy - 2 * float((weight * self.cross).sum()) + float((weight * (weight @ self.gram)).sum())
        return max(error, 0.0) / max(self.energy, torch.finfo(self.gram.dtype).tiny)


def moments(x: Tensor, y: Tensor) -> Moments:
    """Second moments of inputs `(G, D, N)` and targets `(G, O, N)`, in the widest type of their device."""
    dtype = wide(x.device)
    return Moments((x @ x.mT).to(dtype), (y @ x.mT).to(dtype), float(y.square().sum(dtype=dtype)))


def fit(data: Moments, old: Tensor, damping: float) -> Tensor:
    r"""Solve argmin_V |Y - V X|^2 + mu |V - W|^2 with mu = `damping` times the mean diagonal of X X^T.

    Args:
        data: the second moments.
        old: W, `(G, O, D)`, where the ridge pulls to.
        damping: relative; bounded below by 1e-10 so that unused inputs keep their weight.
    """
    scale = data.gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(data.gram.dtype).tiny)
    eye = torch.eye(data.gram.shape[-1], dtype=data.gram.dtype, device=data.gram.device)
    damped = data.gram + (scale * max(damping, 1e-10))[:, None, None] * eye
    gap = (data.cross - old @ data.gram).mT
    factor, failed = torch.linalg.cholesky_ex(damped)
    step = torch.linalg.solve(damped, gap) if bool(failed.any()) else torch.cholesky_solve(gap, factor)
    return old + step.mT


def chosen_damping(folds: Sequence[Moments], old: Tensor) -> float:
    """The damping of `DAMPINGS` with the smallest squared error on held-out folds, each fold held out once."""
    errors = dict.fromkeys(DAMPINGS, 0.0)
    for i, held_out in enumerate(folds):
        rest = [fold for j, fold in enumerate(folds) if j != i]
        seen = rest[0]
        for fold in rest[1:]:
            seen = seen + fold
        for damping in DAMPINGS:
            errors[damping] += held_out.energy * held_out.residual(fit(seen, old, damping))
    return min(errors, key=lambda damping: errors[damping])
