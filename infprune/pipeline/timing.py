"""Budgets of time: what an entry of each weight takes on this machine, and the first plan that is fast enough."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from infprune import ranks, selection
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.forward import Inputs
from infprune.latency import by_module, compare
from infprune.scores.contract import ChannelScores
from infprune.selection import Limits, PruningPlan
from infprune.surgery import kept_positions, resized

ROUNDS = 15  # of one timing
LEAST = 0.1  # of the network's mean time per multiply-accumulate: what an entry takes at least, whatever was measured


def fast_enough(
    module: nn.Module,
    coupling: Coupling,
    layers: Sequence[ChannelLayer],
    scores: ChannelScores,
    limit: float,
    limits: Limits,
    example: Inputs,
) -> PruningPlan:
    """The first plan, in the order of influence per measured time, whose network is fast enough: by bisection.

    Medians of paired rounds, on this machine; they are noisy, so the result is within the noise of the best.

    Args:
        module: the dense network.
        coupling: of it.
        layers: the prunable ones.
        scores: of their channels.
        limit: a share of the dense network's time up to 1, else milliseconds.
        limits: of the plan.
        example: the inputs that are timed.

    Raises:
        BudgetError: no allowed network is fast enough.
    """
    weights = sorted({call.weight for call in coupling.computations})

    def times() -> list[float]:
        known = entry_times(module, coupling, layers, example)
        return [known[weight] for weight in weights]

    known = dict(zip(weights, ranks.once(times, len(weights)), strict=True))
    found = selection.order(coupling, layers, scores, known, limits)
    dense = 0.0

    def fits(step: int) -> bool:
        nonlocal dense
        small = resized(module, kept_positions(coupling, found.plan(step).masks))

        def medians() -> tuple[float, float, float]:
            timed = compare(module, small, example, range(ROUNDS))
            return timed.dense.median, timed.pruned.median, timed.ratio.median

        dense, pruned, ratio = ranks.once(medians, 3)
        return (ratio if limit <= 1 else pruned) <= limit

    step = found.first(fits)
    if step is None:
        asked = f"latency {limit:.3g} of the dense {dense:.3g} ms" if limit <= 1 else f"latency {limit:.3g} ms"
        raise selection.infeasible(asked, found, "no faster network", limits)
    return found.plan(step)


def entry_times(
    module: nn.Module, coupling: Coupling, layers: Sequence[ChannelLayer], example: Inputs
) -> dict[str, float]:
    r"""Nanoseconds that an entry of each weight takes, by the weight's name.

    The slope between the dense network and one with half of every layer's channels: :math:`(t_1 - t_{1/2}) / (n_1 -
    n_{1/2})` for a module of n entries that takes t, with what follows it up to the next. Where no entry went it is
    unknown, and where it is below a tenth of the network's mean time per multiply-accumulate it is noise: then that
    tenth stands for it. A weight that is used without its module takes the mean.
    """
    halves = {layer.name: torch.arange(layer.size) >= layer.size // 2 for layer in layers}
    small = resized(module, kept_positions(coupling, halves))
    positions = Counter[str]()
    for call in coupling.computations:
        positions[call.weight] += call.positions
    owned = {call.weight: call.weight.removesuffix(".weight") for call in coupling.computations if call.owned}
    names = list(dict.fromkeys(owned.values()))
    before, after = (by_module(network, example, names, ROUNDS) for network in (module, small))
    entries = {weight: (_entries(module, name), _entries(small, name)) for weight, name in owned.items()}
    macs = sum(positions[weight] * dense for weight, (dense, _) in entries.items())
    mean = sum(before.values()) / max(macs, 1)
    found = {}
    for weight, count in positions.items():
        if weight not in owned:
            found[weight] = 1e9 * mean * count
            continue
        dense, half = entries[weight]
        slope = (before[owned[weight]] - after[owned[weight]]) / (dense - half) if dense > half else 0.0
        found[weight] = 1e9 * max(slope, LEAST * mean * count)
    return found


def _entries(module: nn.Module, name: str) -> int:
    return int(module.get_parameter(f"{name}.weight").numel())
