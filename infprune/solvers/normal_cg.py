"""CG on H^2 + damping, for indefinite curvature (paper parity with the multi-stage influence function)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infprune.curvature.algebra import Gram
from infprune.curvature.operator import LinearOperator
from infprune.solvers.cg import ConjugateGradients, PreparedCG
from infprune.solvers.contract import Outcome, Solution, columns, residual


@dataclass(frozen=True)
class NormalCG:
    r"""argmin_x 1/2 x^T (H^2 + damping I) x - b^T H x (MS section 3.3), H symmetric, indefinite too.

    With damping 0 it is H^-1 b; the damping, in units of H squared, biases it: x = (H^2 + damping I)^-1 H b.
    Convergence follows the condition number of H^2. `residual` is |H x - b| / |b|, which the bias keeps from zero.
    """

    damping: float = 1e-8
    rtol: float = 1e-8
    max_iterations: int = 1000

    def init(self, operator: LinearOperator) -> "PreparedNormalCG":
        """Square the operator."""
        squared = Gram(operator, self.damping)
        return PreparedNormalCG(operator, ConjugateGradients(self.rtol, self.max_iterations).init(squared))


@dataclass(frozen=True)
class PreparedNormalCG:
    """The operator and CG on its square."""

    operator: LinearOperator
    inner: PreparedCG

    def solve(self, rhs: Tensor) -> Solution:
        """Solve (H^2 + damping I) x = H b for each column."""
        B = columns(rhs).to(self.operator.dtype)
        found = self.inner.solve(self.operator.matmat(B))
        X = found.value
        if found.outcome in (Outcome.INDEFINITE, Outcome.SINGULAR):
            found = replace(
                found, outcome=Outcome.SINGULAR, message="H^2 has no inverse to rounding; raise its damping"
            )
        error = residual(self.operator, torch.as_tensor(X), B)
        return replace(found, value=X.reshape(rhs.shape), residual=error)
