"""Scoring within a memory budget: fewer samples at a time, then several passes that hold the factors of some layers."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from infprune.coupling.groups import ChannelLayer, Role
from infprune.estimate import Estimate

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

    What cannot fit (one sample, or all that reads one layer) is tried all the same, in the smallest parts.

    Args:
        found: of one pass over all layers.
        layers: those that are scored.
        budget: bytes.
        together: all factors are needed at once, so that only batches can be smaller.
    """
    least = min(LEAST, found.batch)
    whole = fitting(found, budget)
    if whole >= least or together:
        return _passes(found, [list(layers)], max(whole, 1))
    widest = max((_held(found, [layer]) for layer in layers), default=0)
    batch = max(1, fitting(replace(found, batch=least, factors=widest), budget))
    room = budget - replace(found, batch=batch, factors=0).peak
    return _passes(found, _packed(found, layers, room), batch)


def fitting(found: Estimate, budget: float) -> int:
    """The largest batch whose peak is within the budget, at most the estimated one; 0 if one sample's is not."""
    return bisect_right(range(1, found.batch + 1), budget, key=lambda batch: replace(found, batch=batch).peak)


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
