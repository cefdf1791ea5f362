"""Which parameters may change: whole filters of each convolution and linear layer, a share r of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.unlearning.activity import CONVOLUTIONS, Activity

Statistic = Literal["activation", "gradient", "influence", "random"]


@dataclass(frozen=True)
class Selection:
    """How filters of a layer are chosen by a statistic of theirs on the forget set.

    `high`: the largest values first, else the smallest. `exclusive`: the value relative to the layer's mean, less the
    same on the samples that stay: high here and low there. `above`: all filters from a share of the layer's largest
    value on, in place of the share r of the filters.
    """

    statistic: Statistic
    high: bool = True
    exclusive: bool = False
    above: bool = False


SELECTIONS: dict[str, Selection] = {
    "activation-high": Selection("activation"),
    "activation-low": Selection("activation", high=False),
    "activation-above": Selection("activation", above=True),
    "activation-exclusive": Selection("activation", exclusive=True),
    "gradient-high": Selection("gradient"),
    "gradient-low": Selection("gradient", high=False),
    "gradient-above": Selection("gradient", above=True),
    "gradient-exclusive": Selection("gradient", exclusive=True),
    "influence": Selection("influence", exclusive=True),
    "random": Selection("random"),
}


@dataclass(frozen=True)
class Measured:
    """What a selection may look at: activity and channel influence `(C,)` by layer, on the forget set and on the rest.

    `influence` lacks the layers that no channel score speaks of, such as the last one: there the gradient decides.
    """

    forget: Activity
    rest: Activity
    influence: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = ({}, {})
    seed: int = 0


@dataclass(frozen=True)
class Chosen:
    """T: positions in theta, ascending `(k,)`; the filters of each layer `(c,)`, and how many the layer has."""

    positions: Tensor
    filters: Mapping[str, Tensor]
    widths: Mapping[str, int]


def chosen(
    how: Selection,
    module: nn.Module,
    space: ParameterSpace,
    names: Sequence[str],
    ratio: float,
    threshold: float,
    measured: Measured,
) -> Chosen:
    """Choose max(1, round(r C)) filters of each layer, with their biases; by a threshold as many as pass, at least one.

    Raises:
        ConfigError: no layer has parameters.
    """
    generator = torch.Generator().manual_seed(measured.seed)
    filters, widths, positions = {}, {}, []
    for name in names:
        m = module.get_submodule(name)
        value = _value(how, name, m, measured, generator).cpu().double()
        count = max(1, round(ratio * len(value)))
        if how.above:
            count = max(1, int((value >= threshold * value.max()).sum()))
        order = torch.argsort(value, descending=how.high, stable=True)
        filters[name], widths[name] = order[:count].sort().values, len(value)
        positions += _entries(space, name, m, filters[name])
    if not positions:
        raise ConfigError("the network has no convolution or linear layer that was run, so nothing can be selected")
    return Chosen(torch.unique(torch.cat(positions)), filters, widths)


def _value(how: Selection, name: str, module: nn.Module, measured: Measured, generator: torch.Generator) -> Tensor:
    if how.statistic == "random":
        return torch.rand(_width(module), generator=generator)
    here, there = (
        measured.influence
        if how.statistic == "influence" and name in measured.influence[0]
        else (getattr(measured.forget, _known(how)), getattr(measured.rest, _known(how)))
    )
    return _relative(here[name]) - _relative(there[name]) if how.exclusive else here[name]


def _known(how: Selection) -> str:
    return "gradient" if how.statistic == "influence" else how.statistic


def _relative(v: Tensor) -> Tensor:
    return v / v.mean().clamp_min(torch.finfo(v.dtype).tiny)


def _width(module: nn.Module) -> int:
    width: int = module.out_channels if isinstance(module, CONVOLUTIONS) else module.out_features  # type: ignore[assignment]
    return width


def _entries(space: ParameterSpace, name: str, module: nn.Module, filters: Tensor) -> list[Tensor]:
    """Positions of some filters' weights and biases, where the space has them."""
    found = []
    dim = 1 if getattr(module, "transposed", False) else 0
    if f"{name}.weight" in space.names:
        width = module.get_parameter("weight").shape[dim]
        found.append(space.at(f"{name}.weight", dim, torch.unique(filters % width)))
    if f"{name}.bias" in space.names:
        found.append(space.at(f"{name}.bias", 0, filters))
    return found
