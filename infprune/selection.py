"""Scores + cost + budget + floors -> which channels stay. Pure."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise

import torch
from torch import Tensor

from infprune import cost, pricing
from infprune.coupling.groups import ChannelLayer, Coupling, Role
from infprune.errors import BudgetError
from infprune.scores.contract import ChannelScores


@dataclass(frozen=True)
class Budget:
    """One limit: share of channels removed, or MACs, parameters, bytes or time kept (a share up to 1, else a number).

    `latency` in milliseconds; what it costs is measured, so `select` leaves it to its caller (see `order`).
    """

    rate: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None

    @property
    def kind(self) -> str:
        """What a channel frees: "channels", or a field of `cost.Cost`; MACs stand for time that was not measured."""
        if self.latency is not None:
            return "macs"
        return next((kind for kind in ("macs", "params", "bytes") if getattr(self, kind) is not None), "channels")

    def allowed(self, dense: int) -> float:
        """How much of a cost may stay."""
        limit: float = getattr(self, self.kind)
        return limit * dense if limit <= 1 else limit


@dataclass(frozen=True)
class Limits:
    """What every plan respects.

    `scope`: "calibrated" ranks all channels together by measured loss, "global" by their bare scores; "layer" cuts
    every layer by the same share.
    `floor`: with a share R of all channels removed, a layer of C channels keeps at least
    max(1, ceil(floor (1 - R) C)) (docs/decisions/0002-floors.md); only ranked scopes can come near it.
    `round_to`: kept widths are multiples of it, except a layer that is not cut at all.
    `per_layer`: layers, by patterns over the modules that make them, that lose this share of their channels (rounded
    down) whatever the budget, which the others then meet; floors do not hold for them. The first pattern counts.
    """

    scope: str = "global"
    floor: float = 0.2
    round_to: int = 1
    per_layer: Mapping[str, float] = field(default_factory=dict)

    def fixed(self, layer: ChannelLayer) -> int | None:
        """How many channels `per_layer` takes from a layer; None: it says nothing."""
        rate = next((rate for pattern, rate in self.per_layer.items() if protected(layer, [pattern])), None)
        return None if rate is None else layer.size - self.width(layer, rate)

    def width(self, layer: ChannelLayer, rate: float) -> int:
        """What a layer keeps that loses a share, rounded up to a multiple of `round_to`, and at least one of it."""
        keep = max(1, layer.size - math.floor(rate * layer.size + 1e-9))
        return min(layer.size, math.ceil(keep / self.round_to) * self.round_to)


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
class Order:
    """Plans number 0 to `last`, each within the one before: `plan(step)`, `left(step)` of the cost it was made for."""

    last: int
    plan: Callable[[int], PruningPlan]
    left: Callable[[int], float]

    def first(self, fits: Callable[[int], bool]) -> int | None:
        """The first plan that fits, by bisection: those after one that fits do so too. None: not even the last."""
        found = bisect_left(range(self.last + 1), 1, key=fits)
        return None if found > self.last else found


@dataclass(frozen=True)
class _Removal:
    """One step of the order: take the `size` lowest remaining channels of a layer; `left` is the cost then."""

    layer: int
    size: int
    left: float


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
    if budget.rate is not None:
        return _by_rate(coupling, layers, scores, budget.rate, limits)
    found = order(coupling, layers, scores, budget.kind, limits)
    dense = cost.count(coupling).of(budget.kind)
    allowed = budget.allowed(dense)
    step = found.first(lambda step: found.left(step) <= allowed)
    if step is None:
        least = found.left(found.last)
        reachable = f"at least {least} ({least / dense:.3f} of the dense {dense})"
        raise infeasible(f"{budget.kind} {allowed:.0f}", found, reachable, limits)
    return found.plan(step)


def order(
    coupling: Coupling, layers: Sequence[ChannelLayer], scores: ChannelScores, kind: cost.Kind, limits: Limits
) -> Order:
    """All plans for budgets of a kind (`Budget.kind`, or what `cost.Meter` knows), from the one that cuts least on."""
    orders = {layer.name: torch.argsort(scores.values[layer.name], stable=True) for layer in layers}
    fixed = [limits.fixed(layer) for layer in layers]
    if limits.scope == "layer":
        # The rates at which some layer loses one more channel: between two of them the plan does not change.
        rates = sorted({k / layer.size for layer in layers for k in range(layer.size + 1)})

        def plan(step: int) -> PruningPlan:
            return _layerwise(layers, orders, rates[step], limits)

        return Order(len(rates) - 1, plan, lambda step: _left(coupling, plan(step), kind))
    prices = {
        name: pricing.prices(
            scores.values[name][ranked], scores.curves[name] if limits.scope == "calibrated" else None
        ).tolist()
        for name, ranked in orders.items()
    }
    removals = _global_order(coupling, layers, prices, kind, limits)
    start = [count or 0 for count in fixed]

    def ranked_plan(step: int) -> PruningPlan:
        gone = list(start)
        for removal in removals[:step]:
            gone[removal.layer] += removal.size
        return _plan(layers, orders, gone)

    first = _left(coupling, ranked_plan(0), kind)
    return Order(len(removals), ranked_plan, lambda step: removals[step - 1].left if step else first)


def _by_rate(
    coupling: Coupling, layers: Sequence[ChannelLayer], scores: ChannelScores, rate: float, limits: Limits
) -> PruningPlan:
    """The last plan that removes no more than the rate."""
    if limits.scope == "layer":
        orders = {layer.name: torch.argsort(scores.values[layer.name], stable=True) for layer in layers}
        return _layerwise(layers, orders, rate, limits)
    total = sum(layer.size for layer in layers)
    everything = sum(layer.size for layer in coupling.layers)
    found = order(coupling, layers, scores, "channels", limits)
    wanted = math.floor(rate * total + 1e-9)
    over = found.first(lambda step: everything - found.left(step) > wanted)
    if over == 0:
        least = (everything - found.left(0)) / total
        raise BudgetError(f"rate {rate} is out of reach: prune.per_layer alone removes {least:.3f}; lower it")
    if over is None and wanted - (everything - found.left(found.last)) >= limits.round_to:
        most = (everything - found.left(found.last)) / total
        raise infeasible(f"rate {rate}", found, f"at most {most:.3f}", limits)
    return found.plan(found.last if over is None else over - 1)


def _layerwise(
    layers: Sequence[ChannelLayer], orders: Mapping[str, Tensor], rate: float, limits: Limits
) -> PruningPlan:
    """Every layer loses the same share, rounded down, and keeps at least one unit of `round_to`."""
    gone = []
    for layer in layers:
        fixed = limits.fixed(layer)
        gone.append(layer.size - limits.width(layer, rate) if fixed is None else fixed)
    return _plan(layers, orders, gone)


def _left(coupling: Coupling, plan: PruningPlan, kind: cost.Kind) -> float:
    if not isinstance(kind, str):
        meter = cost.Meter(coupling, kind)
        for name, kept in plan.kept.items():
            meter.remove(name, len(plan.masks[name]) - kept)
        return meter.left
    if kind == "channels":
        return sum(plan.kept.get(layer.name, layer.size) for layer in coupling.layers)
    return cost.count(coupling, plan.kept).of(kind)


def _global_order(
    coupling: Coupling,
    layers: Sequence[ChannelLayer],
    prices: Mapping[str, Sequence[float]],
    kind: cost.Kind,
    limits: Limits,
) -> list[_Removal]:
    """Greedy: take the next unit of any layer that is cheapest for what it frees and that its floor allows.

    Floors are those at the rate reached so far. They fall as it rises, so what was allowed stays allowed and every
    prefix of the list is a valid plan.
    """
    total = sum(layer.size for layer in layers)
    units = [_units(prices[layer.name], limits.round_to) for layer in layers]
    meter = cost.Meter(coupling, kind)
    kept, taken = [layer.size for layer in layers], [0] * len(layers)
    removed = 0
    free = {layer.name: i for i, layer in enumerate(layers)}
    for layer in layers:
        if (gone := limits.fixed(layer)) is not None:
            meter.remove(layer.name, gone)
            del free[layer.name]
            removed += gone
    ratios = [_ratio(meter, layer, units[i][0]) if layer.name in free else math.inf for i, layer in enumerate(layers)]
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
        for name in touched & free.keys():
            i = free[name]
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


def infeasible(asked: str, found: Order, reachable: str, limits: Limits) -> BudgetError:
    """The error for a budget that even the last plan misses."""
    smallest = sorted(found.plan(found.last).kept.items(), key=lambda item: item[1])[:3]
    rounding = " or prune.round_to" if limits.round_to > 1 else ""
    binding = ", ".join(f"{name} keeps {kept}" for name, kept in smallest)
    return BudgetError(
        f"{asked} is out of reach: the floors allow {reachable}; binding layers: {binding}; lower prune.floor{rounding}"
    )
