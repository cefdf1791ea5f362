"""Fisher matrices: second moments of one sample's gradient, at labels of the model or of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.gauss_newton import GaussNewton
from infprune.curvature.graphs import MEMORY
from infprune.curvature.losses import drawn
from infprune.curvature.objective import Objective


def fisher(
    objective: Objective, theta: Tensor | None = None, memory: int = MEMORY, *, seed: int = 0, draws: int = 1
) -> GaussNewton:
    r"""F = 1/N sum_n g_n g_n^T, the mean over `draws` labels per sample from the model's own distribution.

    With g_n = J_n^T r_n, r_n the slope of the loss in the outputs, it is J^T B J with B = r r^T: a product needs no
    per-sample gradient. Its expectation over labels is the GGN of a likelihood. Without the ridge.
    """
    at = objective.theta if theta is None else theta.detach()
    generator = torch.Generator().manual_seed(seed)
    cores, before = list[Outer](), objective.before
    for x, y in objective.batches:
        with torch.no_grad():
            z = objective.outputs(at, x)
            objective.losses(z, y)  # its checks: nothing can be drawn from NaN
        for size in before:  # labels of lower ranks' samples are drawn and thrown away
            drawn(objective.loss, z.new_zeros(size, *z.shape[1:]), generator, draws)
        before = ()
        slopes = [_slope(objective, z, labels) for labels in drawn(objective.loss, z, generator, draws)]
        cores.append(Outer(torch.stack(slopes)))
    return GaussNewton(objective, cores, at, memory)


def empirical_fisher(objective: Objective, theta: Tensor | None = None, memory: int = MEMORY) -> GaussNewton:
    r"""F = 1/N sum_n g_n g_n^T at the labels of the data. No approximation of the Hessian away from a perfect fit."""
    at = objective.theta if theta is None else theta.detach()
    cores = []
    for x, y in objective.batches:
        with torch.no_grad():
            z = objective.outputs(at, x)
        cores.append(Outer(_slope(objective, z, y)[None]))
    return GaussNewton(objective, cores, at, memory)


@torch.enable_grad()
def _slope(objective: Objective, z: Tensor, y: Tensor) -> Tensor:
    """D l_n / d z_n, like z."""
    z = z.detach().requires_grad_()
    found: Tensor = torch.autograd.grad(objective.losses(z, y).sum(), z)[0]
    return found


@dataclass(frozen=True)
class Outer:
    """B_n = mean_r r_n r_n^T for slopes `(R, N, K)`; the outputs of one sample may have any shape."""

    slopes: Tensor

    def __call__(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """mean_r r (r^T u)."""
        del y
        slopes = self.slopes.reshape(*self.slopes.shape[:2], -1)
        flat = u.reshape(*u.shape[: u.dim() - z.dim()], 1, len(z), -1)
        inner = (slopes * flat).sum(-1, keepdim=True)
        return (inner * slopes).mean(-3).reshape(u.shape)

    def part(self, samples: slice) -> "Outer":
        """The slopes of some samples."""
        return Outer(self.slopes[:, samples])
