"""Scores + cost + budget + floors -> which channels stay. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

import torch
from torch import Tensor

from infprune import cost
from infprune.coupling.groups import ChannelLayer, Coupling, Role
from infprune.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """One of three limits: share of channels removed, or MACs or parameters kept (share up to 1, else a number)."""

    rate: float | None = None
    macs: float | None = None
    params: float | None = None


@dataclass(frozen=True)
class Limits:
    """What every plan respects.

    `scope`: "global" ranks all channels together, "layer" cuts every layer by the same share.
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
    """One step of the order: take the `size` lowest remaining channels of a layer."""

    layer: int
    size: int


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
    coupling: Coupling, layers: Sequence[ChannelLayer], scores: Mapping[str, Tensor], budget: Budget, limits: Limits
) -> PruningPlan:
    """Choose the channels that stay.

    One order of removal serves every budget: a larger rate removes a superset, and never keeps more MACs.

    Args:
        coupling: for costs.
        layers: the prunable ones.
        scores: `(C,)` per layer name, larger = keep.
        budget: what must hold. A rate is met from below, to within one step; costs are never above theirs.
        limits: what must hold all the same.

    Raises:
        BudgetError: the floors do not allow it; names the layers that bind.
    """
    total = sum(layer.size for layer in layers)
    orders = {layer.name: torch.argsort(scores[layer.name], stable=True) for layer in layers}
    if limits.scope == "layer":
        return _layerwise(coupling, layers, orders, budget, limits)
    removals = _global_order(layers, scores, orders, limits)
    counts = [0]
    for removal in removals:
        counts.append(counts[-1] + removal.size)

    def plan(steps: int) -> PruningPlan:
        gone = [0] * len(layers)
        for removal in removals[:steps]:
            gone[removal.layer] += removal.size
        return _plan(layers, orders, gone)

    if budget.rate is not None:
        wanted = math.floor(budget.rate * total + 1e-9)
        steps = sum(count <= wanted for count in counts) - 1
        if steps == len(removals) and wanted - counts[-1] >= limits.round_to:
            raise _infeasible(f"rate {budget.rate}", plan(steps), f"at most {counts[-1] / total:.3f}", limits)
        return plan(steps)
    return _within_cost(coupling, budget, limits, plan, len(removals))


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
    return _within_cost(coupling, budget, limits, lambda step: plan(rates[step]), len(rates) - 1)


def _within_cost(
    coupling: Coupling, budget: Budget, limits: Limits, plan: Callable[[int], PruningPlan], steps: int
) -> PruningPlan:
    """The smallest cut that costs no more than the budget, by bisection: cost falls with every step."""
    kind = "macs" if budget.macs is not None else "params"
    limit = budget.macs if budget.macs is not None else budget.params
    assert limit is not None
    dense = getattr(cost.count(coupling), kind)
    allowed = limit * dense if limit <= 1 else limit

    def spent(step: int) -> int:
        return int(getattr(cost.count(coupling, plan(step).kept), kind))

    if spent(steps) > allowed:
        least = spent(steps)
        reachable = f"at least {least} ({least / dense:.3f} of the dense {dense})"
        raise _infeasible(f"{kind} {allowed:.0f}", plan(steps), reachable, limits)
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if spent(middle) <= allowed else (middle + 1, high)
    return plan(low)


def _global_order(
    layers: Sequence[ChannelLayer], scores: Mapping[str, Tensor], orders: Mapping[str, Tensor], limits: Limits
) -> list[_Removal]:
    """Greedy: take the cheapest next unit of any layer that its floor, at the rate reached so far, still allows.

    Floors fall as the rate rises, so what was allowed stays allowed and every prefix of the list is a valid plan.
    """
    total = sum(layer.size for layer in layers)
    prices = [_prices(scores[layer.name][orders[layer.name]], limits.round_to) for layer in layers]
    kept = [layer.size for layer in layers]
    taken = [0] * len(layers)
    removed = 0
    removals: list[_Removal] = []
    while True:
        best, best_price = -1, math.inf
        for i, layer in enumerate(layers):
            if taken[i] == len(prices[i]):
                continue
            size, price = prices[i][taken[i]]
            rate = (removed + size) / total
            floor = max(1, math.ceil(limits.floor * (1 - rate) * layer.size - 1e-9))
            if kept[i] - size >= floor and price < best_price:
                best, best_price = i, price
        if best < 0:
            return removals
        size = prices[best][taken[best]][0]
        taken[best], kept[best], removed = taken[best] + 1, kept[best] - size, removed + size
        removals.append(_Removal(best, size))


def _prices(ascending: Tensor, round_to: int) -> list[tuple[int, float]]:
    """Cut a layer's ascending scores into units that leave multiples of `round_to`; a unit costs its mean score."""
    size = len(ascending)
    first = size % round_to or round_to
    bounds = [0, *range(first, size + 1, round_to)]
    return [(b - a, float(ascending[a:b].mean())) for a, b in pairwise(bounds)]


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
