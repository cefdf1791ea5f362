"""The generalised Gauss-Newton matrix."""

from dataclasses import dataclass

from torch import Tensor

from infprune.curvature.gauss_newton import GaussNewton
from infprune.curvature.graphs import MEMORY
from infprune.curvature.losses import Loss
from infprune.curvature.objective import Objective


def ggn(objective: Objective, theta: Tensor | None = None, memory: int = MEMORY) -> GaussNewton:
    r"""G = 1/N sum_n J_n^T B_n J_n with B_n the Hessian of the loss in the outputs (Schraudolph 2002).

    Equals the Hessian where the network is linear in theta or fits without residual, and the Fisher for likelihoods of
    the exponential family in natural parameters (cross-entropy, squared error). Positive semi-definite for convex
    losses. Without the ridge.
    """
    batches = sum(1 for _ in objective.batches)
    return GaussNewton(objective, [Curved(objective.loss)] * batches, theta, memory)


@dataclass(frozen=True)
class Curved:
    """B_n is the Hessian of the loss in the outputs."""

    loss: Loss

    def __call__(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """B_n u_n."""
        return self.loss.curvature(z, y, u)

    def part(self, samples: slice) -> "Curved":
        """The same: it keeps nothing of the samples."""
        del samples
        return self
