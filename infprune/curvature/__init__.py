"""Curvature of a loss: operators that are applied and need not exist, and the pass that collects second moments."""

from collections.abc import Callable

from torch import Tensor

from infprune.curvature.algebra import Damped
from infprune.curvature.fisher import empirical_fisher, fisher
from infprune.curvature.ggn import ggn
from infprune.curvature.hessian import Hessian
from infprune.curvature.kfac import ekfac, kfac
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator

CURVATURES: dict[str, Callable[..., LinearOperator]] = {
    "ggn": ggn,
    "hessian": Hessian,
    "fisher": fisher,
    "empirical-fisher": empirical_fisher,
    "kfac": kfac,
    "ekfac": ekfac,
}


def regularised(name: str, objective: Objective, theta: Tensor | None = None) -> LinearOperator:
    """The curvature of R: that of the data, from `CURVATURES`, plus the ridge times I."""
    found = CURVATURES[name](objective, theta)
    return Damped(found, objective.ridge) if objective.ridge else found
