"""Theorem 1 and its exact forms: pure functions of curvature, weights and groups."""

from collections.abc import Callable

from torch import Tensor

from infprune.influence.block import block
from infprune.influence.bracket import bracket
from infprune.influence.printed import printed
from infprune.influence.quadratic import Quadratic, Removal

FORMS: dict[str, Callable[[Quadratic, Tensor], Removal]] = {
    "block": block,
    "paper": printed,
    "bracket": bracket,
}
