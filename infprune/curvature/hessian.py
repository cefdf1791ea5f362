"""The Hessian of an objective, by differentiating its gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from infprune import ranks
from infprune.curvature.graphs import MEMORY, Graphs, convolutional
from infprune.curvature.objective import Objective, once_more, twice
from infprune.curvature.operator import LinearOperator
from infprune.forward import Inputs


class Hessian(LinearOperator):
    r"""H = 1/N sum_n d^2 l_n / d theta^2 at a point, without the ridge (`curvature.CURVATURES` adds it).

    A product costs one backward pass through the graph of the gradient (Pearlmutter 1994), which is kept while
    `memory` lasts. Symmetric, not necessarily positive; MU section 4.1 tells what to do then. Mean loss, so its unit is
    that of the loss per squared unit of theta.

    Args:
        objective: the loss over data.
        theta: the point `(P,)`; None: where the network is.
        memory: bytes of graphs that are kept.

    Raises:
        ArchitectureError: an operation has no second derivative.
    """

    def __init__(self, objective: Objective, theta: Tensor | None = None, memory: int = MEMORY) -> None:
        self.objective = objective
        self.theta = objective.theta if theta is None else theta.detach()
        self.shape = (len(self.theta), len(self.theta))
        self.dtype, self.device = self.theta.dtype, self.theta.device
        self._memory = memory
        self._single = convolutional(objective)
        self._graphs = Graphs(objective, self.theta, self._gradient, memory)

    def _gradient(self, leaf: Tensor, x: Inputs, y: Tensor) -> tuple[Tensor | None, Tensor]:
        """The gradient with its graph, None if it is constant, and the leaf."""
        loss = self.objective.losses(self.objective.outputs(leaf, x), y).sum()
        if not loss.requires_grad:
            return None, leaf
        found = once_more(lambda: torch.autograd.grad(loss, leaf, create_graph=True, allow_unused=True)[0])
        return twice(found), leaf

    def matmat(self, V: Tensor) -> Tensor:
        """H V."""
        total = torch.zeros_like(V)
        together = 1 if self._single else self._graphs.together()
        for _, (gradient, leaf) in self._graphs:
            if gradient is None:
                continue
            for start in range(0, V.shape[1], together):
                part = slice(start, start + together)
                total[:, part] += _through(gradient, leaf, V[:, part])
        return ranks.total(total) / self._graphs.everywhere

    @property
    def parts(self) -> Sequence[LinearOperator]:
        """The Hessian of each batch, scaled so that their mean is this one where batches are equally large."""
        return tuple(Hessian(o, self.theta, self._memory) for o in self.objective.single())


def _through(gradient: Tensor, leaf: Tensor, V: Tensor) -> Tensor:
    if V.shape[1] == 1:
        found = once_more(lambda: torch.autograd.grad(gradient, leaf, V[:, 0], retain_graph=True, allow_unused=True)[0])
        return torch.zeros_like(V) if found is None else found[:, None]
    found = once_more(
        lambda: torch.autograd.grad(gradient, leaf, V.T, retain_graph=True, is_grads_batched=True, allow_unused=True)[0]
    )
    return torch.zeros_like(V) if found is None else found.T
