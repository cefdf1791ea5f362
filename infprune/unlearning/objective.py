"""The forget objective: what is to be raised, with its gradient and its Hessian."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infprune.curvature.algebra import Sum
from infprune.curvature.graphs import MEMORY
from infprune.curvature.hessian import Hessian
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator
from infprune.forward import Inputs, logits
from infprune.modes import evaluating

Labelled = Iterable[tuple[Inputs, Tensor]]


@dataclass(frozen=True)
class Forgetting:
    r"""q(theta) = 1/m sum_n l(x_n, learned y_n) - l(x_n, wanted y_n) over the forget set; without `wanted` the first.

    Raising q unlearns. `learned` and `wanted` hold the same inputs. With cross-entropy the difference is the logit of
    the wanted label less that of the learned one: its gradient does not vanish on samples that are fitted well, as that
    of the first term does.
    """

    learned: Objective
    wanted: Labelled | None = None

    def gradient(self, theta: Tensor) -> Tensor:
        """Of q, `(P,)`."""
        g = self.learned.gradient(theta)
        return g if self.wanted is None else g - self.learned.on(self.wanted).gradient(theta)

    def hessian(self, theta: Tensor, memory: int = MEMORY) -> LinearOperator:
        """Of q, `(P, P)`."""
        K = Hessian(self.learned, theta, memory)
        if self.wanted is None:
            return K
        return Sum([K, Hessian(self.learned.on(self.wanted), theta, memory)], [1.0, -1.0])


@torch.no_grad()
def runner_up(module: nn.Module, batches: Labelled) -> Tensor:
    """The largest logit's class besides each sample's label, `(N,)`, on the CPU."""
    found = []
    with evaluating(module):
        for x, y in batches:
            others = logits(module, x).scatter(1, y[:, None], -torch.inf)
            found.append(others.argmax(1).cpu())
    return torch.cat(found)
