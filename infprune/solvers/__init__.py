"""Inverse-curvature-vector products: one solver per file; each returns a value, an outcome and what it cost."""

from collections.abc import Callable

from infprune.solvers.cg import ConjugateGradients
from infprune.solvers.contract import Solver
from infprune.solvers.direct import LDL, Cholesky
from infprune.solvers.landweber import Landweber
from infprune.solvers.lsmr import LSMR
from infprune.solvers.neumann import LiSSA, Neumann
from infprune.solvers.normal_cg import NormalCG

SOLVERS: dict[str, Callable[..., Solver]] = {
    "cholesky": Cholesky,
    "ldl": LDL,
    "cg": ConjugateGradients,
    "lsmr": LSMR,
    "landweber": Landweber,
    "neumann": Neumann,
    "lissa": LiSSA,
    "normal-cg": NormalCG,
}
