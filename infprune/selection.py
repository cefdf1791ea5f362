"""Scores + cost + budget + floors -> which channels stay. Pure."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from infprune import cost, pricing
from infprune.coupling.groups import ChannelLayer, Coupling, Role
from infprune.errors import BudgetError
from infprune.scores.contract import ChannelScores


@dataclass(frozen=True)
class Budget:
    """One limit: share of channels removed, or MACs, parameters or bytes kept (a share up to 1, else a number)."""

    rate: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None

    @property
    def kind(self) -> str:
        """What is counted: "channels", or a field of `cost.Cost`."""
        return next((kind for kind in ("macs", "params", "bytes") if getattr(self, kind) is not None), "channels")

    def allowed(self, dense: int) -> float:
        """How much of a cost may stay."""
        limit: float = getattr(self, self.kind)
        return limit * dense if limit <= 1 else limit


@dataclass(frozen=True)
class Limits:
    """What every plan respects.

    `scope`: "calibrated" ranks all channels together by measured loss, "global" by their bare scores; "layer" cuts every
    layer by the same share.
    `floor`: with a share R of all channels removed, a layer of C channels keeps at least
    max(1, ceil(floor (1 - R) C)) (docs/decisions/0002-floors.md); only the global scope can come near it.
    `round_to`: kept widths are multiples of it, except a layer that is not cut at all.
    """

    scope: str = "global"
    floor: float = 0.2
    round_to: int = 1


@dataclass(frozen=True)
class PruningPlan:
    """Which channels stay: bool `(C,)` per layer, True stays. `rate` is the share of prunable channels removed."""

    masks: Mapping[str, Tensor]

    @property
    def kept(self) -> dict[str, int]:
        """Number of channels that stay, per layer."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}

    @property
    def rate(self) -> float:
        """Share of the prunable channels that go."""
        total = sum(len(mask) for mask in self.masks.values())
        return 1 - sum(self.kept.values()) / total if total else 0.0


@dataclass(frozen=True)
class _Removal:
    """One step of the order: take the `size` lowest remaining channels of a layer; `left` is the cost then."""

    layer: int
    size: int
    left: int


def prunable(coupling: Coupling, protect: Sequence[str] = ()) -> tuple[ChannelLayer, ...]:
    """Layers that may be cut: neither frozen nor protected.

    Raises:
        BudgetError: nothing is left to cut.
    """
    layers = tuple(layer for layer in coupling.prunable if not protected(layer, protect))
    if not layers:
        reasons = "; ".join(f"{layer.name}: {layer.frozen}" for layer in coupling.layers if layer.frozen)
        raise BudgetError(f"nothing to prune: every layer is protected or frozen ({reasons})")
    return layers


def protected(layer: ChannelLayer, patterns: Sequence[str]) -> bool:
    """Whether a producer of the layer matches a pattern (`fnmatch`, e.g. `classifier.*`)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in _producers(layer))


def select(
    coupling: Coupling, layers: Sequence[ChannelLayer], scores: ChannelScores, budget: Budget, limits: Limits
) -> PruningPlan:
    """Choose the channels that stay.

    Where all layers are ranked together, the next channels to go are those with the least price for what they free:
    per channel where the budget is a rate, else per MAC, parameter or byte. One order of removal serves every budget
    of a kind: a tighter one removes a superset.

    Args:
        coupling: for costs.
        layers: the prunable ones.
        scores: of their channels; with curves for the scope "calibrated".
        budget: what must hold. A rate is met from below, to within one step; costs are never above theirs.
        limits: what must hold all the same.

    Raises:
        BudgetError: the floors do not allow it; names the layers that bind.
    """
    orders = {layer.name: torch.argsort(scores.values[layer.name], stable=True) for layer in layers}
    if limits.scope == "layer":
        return _layerwise(coupling, layers, orders, budget, limits)
    prices = {
        name: pricing.prices(
            scores.values[name][order], scores.curves[name] if limits.scope == "calibrated" else None
        ).tolist()
        for name, order in orders.items()
    }
    removals = _global_order(coupling, layers, prices, budget.kind, limits)

    def plan(steps: int) -> PruningPlan:
        gone = [0] * len(layers)
        for removal in removals[:steps]:
            gone[removal.layer] += removal.size
        return _plan(layers, orders, gone)

    if budget.rate is not None:
        total = sum(layer.size for layer in layers)
        counts = [0, *itertools.accumulate(removal.size for removal in removals)]
        wanted = math.floor(budget.rate * total + 1e-9)
        steps = sum(count <= wanted for count in counts) - 1
        if steps == len(removals) and wanted - counts[-1] >= limits.round_to:
            raise _infeasible(f"rate {budget.rate}", plan(steps), f"at most {counts[-1] / total:.3f}", limits)
        return plan(steps)
    spent = [cost.count(coupling).of(budget.kind), *(removal.left for removal in removals)]
    return plan(_first_within(spent, budget, limits, plan))


def _layerwise(
    coupling: Coupling, layers: Sequence[ChannelLayer], orders: Mapping[str, Tensor], budget: Budget, limits: Limits
) -> PruningPlan:
    """Every layer loses the same share, rounded down, and keeps at least one unit of `round_to`."""

    def plan(rate: float) -> PruningPlan:
        gone = []
        for layer in layers:
            keep = max(1, layer.size - math.floor(rate * layer.size + 1e-9))
            gone.append(layer.size - min(layer.size, math.ceil(keep / limits.round_to) * limits.round_to))
        return _plan(layers, orders, gone)

    if budget.rate is not None:
        return plan(budget.rate)
    # The rates at which some layer loses one more channel: between two of them the plan does not change.
    rates = sorted({k / layer.size for layer in layers for k in range(layer.size + 1)})
    spent = _Costs(coupling, budget.kind, [plan(rate) for rate in rates])
    return plan(rates[_first_within(spent, budget, limits, lambda step: plan(rates[step]))])


@dataclass(frozen=True)
class _Costs(Sequence[int]):
    """Costs of plans, counted when asked for."""

    coupling: Coupling
    kind: str
    plans: Sequence[PruningPlan]

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, step: Any) -> Any:
        return cost.count(self.coupling, self.plans[step].kept).of(self.kind)


def _first_within(
    spent: Sequence[int], budget: Budget, limits: Limits, plan: Callable[[int], PruningPlan]
) -> int:
    """The first step that costs no more than the budget, by bisection: cost falls with every step."""
    dense, least = spent[0], spent[len(spent) - 1]
    allowed = budget.allowed(dense)
    if least > allowed:
        reachable = f"at least {least} ({least / dense:.3f} of the dense {dense})"
        raise _infeasible(f"{budget.kind} {allowed:.0f}", plan(len(spent) - 1), reachable, limits)
    return bisect_left(spent, -allowed, key=lambda cost: -cost)


def _global_order(
    coupling: Coupling,
    layers: Sequence[ChannelLayer],
    prices: Mapping[str, Sequence[float]],
    kind: str,
    limits: Limits,
) -> list[_Removal]:
    """Greedy: take the next unit of any layer that is cheapest for what it frees and that its floor allows.

    Floors are those at the rate reached so far. They fall as it rises, so what was allowed stays allowed and every prefix
    of the list is a valid plan.
    """
    total = sum(layer.size for layer in layers)
    units = [_units(prices[layer.name], limits.round_to) for layer in layers]
    meter = cost.Meter(coupling, kind)
    where = {layer.name: i for i, layer in enumerate(layers)}
    kept, taken = [layer.size for layer in layers], [0] * len(layers)
    ratios = [_ratio(meter, layer, units[i][0]) for i, layer in enumerate(layers)]
    removed = 0
    removals: list[_Removal] = []
    while True:
        best, least = -1, math.inf
        for i, layer in enumerate(layers):
            if ratios[i] >= least:
                continue
            size = units[i][taken[i]].size
            floor = max(1, math.ceil(limits.floor * (1 - (removed + size) / total) * layer.size - 1e-9))
            if kept[i] - size >= floor:
                best, least = i, ratios[i]
        if best < 0:
            return removals
        size = units[best][taken[best]].size
        taken[best], kept[best], removed = taken[best] + 1, kept[best] - size, removed + size
        touched = meter.remove(layers[best].name, size)
        removals.append(_Removal(best, size, meter.left))
        for name in touched & where.keys():
            i = where[name]
            ratios[i] = _ratio(meter, layers[i], units[i][taken[i]]) if taken[i] < len(units[i]) else math.inf


@dataclass(frozen=True)
class _Unit:
    """Channels of a layer that go together, and what they cost together."""

    size: int
    price: float


def _units(prices: Sequence[float], round_to: int) -> list[_Unit]:
    """Cut a layer's prices into units that leave multiples of `round_to`."""
    size = len(prices)
    first = size % round_to or round_to
    bounds = [0, *range(first, size + 1, round_to)]
    return [_Unit(b - a, sum(prices[a:b])) for a, b in pairwise(bounds)]


def _ratio(meter: cost.Meter, layer: ChannelLayer, unit: _Unit) -> float:
    """Price for what is freed; what frees nothing is never worth it."""
    freed = meter.freed(layer.name, unit.size)
    return unit.price / freed if freed else math.inf


def _plan(layers: Sequence[ChannelLayer], orders: Mapping[str, Tensor], gone: Sequence[int]) -> PruningPlan:
    masks = {}
    for layer, count in zip(layers, gone, strict=True):
        mask = torch.ones(layer.size, dtype=torch.bool)
        mask[orders[layer.name][:count]] = False
        masks[layer.name] = mask
    return PruningPlan(masks)


def _producers(layer: ChannelLayer) -> set[str]:
    """Names of the modules, or of the parameters of no module, that make the channels of a layer."""
    return {s.tensor.removesuffix(".weight").removesuffix(".bias") for s in layer.having(Role.PRODUCER)}


def _infeasible(asked: str, plan: PruningPlan, reachable: str, limits: Limits) -> BudgetError:
    smallest = sorted(plan.kept.items(), key=lambda item: item[1])[:3]
    rounding = " or prune.round_to" if limits.round_to > 1 else ""
    binding = ", ".join(f"{name} keeps {kept}" for name, kept in smallest)
    return BudgetError(
        f"{asked} is out of reach: the floors allow {reachable}; binding layers: {binding}; lower prune.floor{rounding}"
    )
