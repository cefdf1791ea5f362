"""Scoring within a memory budget: fewer samples at a time, then several passes that hold the factors of some layers."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from infprune.coupling.groups import ChannelLayer, Role
from infprune.estimate import Estimate
from infprune.units import GIB

LEAST = 4  # samples at a time: fewer cost more than a second pass does (docs/log.md)


@dataclass(frozen=True)
class Passes:
    """Each of `parts` is a pass over all samples, and holds the Kronecker factors of what reads its layers.

    `batch`: samples at a time. `factors`, `peak`: estimated bytes, at the worst pass.
    """

    parts: tuple[tuple[ChannelLayer, ...], ...]
    batch: int
    factors: int
    peak: int


def planned(found: Estimate, layers: Sequence[ChannelLayer], budget: float, *, together: bool = False) -> Passes:
    """Choose the passes, the least extra work first: one pass if it fits, in batches of `LEAST` or more; else several.

    What cannot fit (one sample, or all that reads one layer) leaves the smallest parts, whose `peak` is the least that
    scoring takes, and above the budget.

    Args:
        found: of one pass over all layers.
        layers: those that are scored.
        budget: bytes.
        together: all factors are needed at once, so that only batches can be smaller.
    """
    least = min(LEAST, found.batch)
    whole = fitting(found, budget)
    if whole >= least or together or not found.factors:
        return _passes(found, [list(layers)], max(whole, 1))
    widest = max((_held(found, [layer]) for layer in layers), default=0)
    batch = max(1, fitting(replace(found, batch=least, factors=widest), budget))
    room = budget - replace(found, batch=batch, factors=0).peak
    return _passes(found, _packed(found, layers, room), batch)


def fitting(found: Estimate, budget: float) -> int:
    """The largest batch whose peak is within the budget, at most the estimated one; 0 if one sample's is not."""
    return bisect_right(range(1, found.batch + 1), budget, key=lambda batch: replace(found, batch=batch).peak)


def advice(
    found: Estimate, layers: Sequence[ChannelLayer], plan: Passes, budget: float, setting: str = ""
) -> list[str]:
    """Where one pass is above the budget: what scoring does to stay below it, else what it takes; what would take less.

    `setting`: what has to be set for that budget, if anything has.
    """
    if found.peak <= budget:
        return []
    if plan.peak <= budget:
        told = [f"scored within the budget in {_called(plan)}{setting}"]
    elif fits := fitting(found, budget):  # batches stay whole
        told = [f"data.batch_size={fits} fits"]
    else:
        needed = min(plan.peak, replace(found, batch=1).peak)
        least, smallest = gib(needed), planned(found, layers, needed, together=len(plan.parts) == 1)
        ways = f"score.memory={least}" + (", data.batch_size=1" if plan.batch > 1 else "")
        told = [f"at least {least} GiB are needed ({ways}), enough for {_called(smallest)}"]
        shared = planned(found, layers, budget)
        if shared.peak <= budget:  # and the plan keeps all factors
            told.append(f"prune.scope=global fits, in {_called(shared)}")
    if found.factors and fitting(without_factors(found), budget):
        told.append("score.criterion=gate needs no factors and fits")
    elif replace(found, batch=1).activations > budget - found.weights >= 0:
        told.append("even one sample is too much: checkpoint activations in the network's code")
    return told


def whole_batches(found: Estimate, layers: Sequence[ChannelLayer]) -> Passes:
    """One pass that can neither be shared out nor take fewer samples at a time."""
    return _passes(found, [layers], found.batch)


def gib(count: float) -> str:
    """Bytes as a number of GiB that is at least as much, to four decimals."""
    return f"{math.ceil(count / GIB * 1e4) / 1e4:.12g}"


def without_factors(found: Estimate) -> Estimate:
    """Of criteria that need none."""
    return replace(found, factors=0, columns=0, solving=0, shares={})


def _called(plan: Passes) -> str:
    number, samples = len(plan.parts), "one sample" if plan.batch == 1 else f"{plan.batch} samples"
    passes = "one pass" if number == 1 else f"{number} passes over the data, each with the factors of some layers"
    return f"{passes}, {samples} at a time"


def _passes(found: Estimate, parts: Sequence[Sequence[ChannelLayer]], batch: int) -> Passes:
    factors = max((_held(found, part) for part in parts), default=0) if len(parts) > 1 else found.factors
    peak = replace(found, batch=batch, factors=factors).peak
    return Passes(tuple(tuple(part) for part in parts), batch, factors, peak)


def _packed(found: Estimate, layers: Sequence[ChannelLayer], room: float) -> list[list[ChannelLayer]]:
    """The layers in their order, as many to a part as have factors within `room`, at least one.

    Neighbours often share what reads them (dense connections), whose factors are then held once.
    """
    parts: list[list[ChannelLayer]] = [[]]
    for layer in layers:
        if parts[-1] and _held(found, [*parts[-1], layer]) > room:
            parts.append([])
        parts[-1].append(layer)
    return parts


def _held(found: Estimate, layers: Iterable[ChannelLayer]) -> int:
    """Bytes of the factors of all weights that read these layers, each once."""
    names = {s.tensor for layer in layers if not layer.gated for s in layer.having(Role.CONSUMER)}
    return sum(found.shares.get(name, 0) for name in names)
