"""The forget objective: what is to be raised, with its gradient and its Hessian."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from infprune.curvature.algebra import Sum
from infprune.curvature.graphs import MEMORY
from infprune.curvature.hessian import Hessian
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator
from infprune.forward import Inputs

Labelled = Iterable[tuple[Inputs, Tensor]]


@dataclass(frozen=True)
class Forgetting:
    r"""q(theta) = 1/m sum_n l(x_n, learned y_n) - l(x_n, right y_n) over the forget set; without `right` the first.

    Raising q unlearns. `learned` and `right` hold the same inputs.
    """

    learned: Objective
    right: Labelled | None = None

    def gradient(self, theta: Tensor) -> Tensor:
        """Of q, `(P,)`."""
        g = self.learned.gradient(theta)
        return g if self.right is None else g - self.learned.on(self.right).gradient(theta)

    def hessian(self, theta: Tensor, memory: int = MEMORY) -> LinearOperator:
        """Of q, `(P, P)`."""
        K = Hessian(self.learned, theta, memory)
        if self.right is None:
            return K
        return Sum([K, Hessian(self.learned.on(self.right), theta, memory)], [1.0, -1.0])
