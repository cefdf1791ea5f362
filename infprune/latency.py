"""This machine's clock: dense against pruned in paired measurements, and where in a network the time goes."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from infprune.forward import Inputs, run, tensors
from infprune.modes import evaluating

WARM_UP = 3


@dataclass(frozen=True)
class Quartiles:
    """Median, lower and upper quartile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """`dense`, `pruned`: milliseconds of a forward pass. `ratio`: pruned / dense of the same round. `n`: rounds."""

    n: int
    dense: Quartiles
    pruned: Quartiles
    ratio: Quartiles

    @property
    def verdict(self) -> str:
        """`faster` or `slower` if three rounds in four say so, else `same`.

        Were both equally fast, 23 or more of 31 independent rounds would say `faster` with probability 0.005.
        """
        if self.ratio.high < 1:
            return "faster"
        return "slower" if self.ratio.low > 1 else "same"


@torch.no_grad()
def compare(dense: nn.Module, pruned: nn.Module, x: Inputs, rounds: Iterable[int]) -> Comparison:
    """Time both networks once per round, in turns first and second, so that noise and drift hit both alike."""
    times: list[tuple[float, float]] = []
    with evaluating(dense, pruned):
        for _ in range(WARM_UP):
            _seconds(dense, x)
            _seconds(pruned, x)
        for i in rounds:
            if i % 2:
                after, before = _seconds(pruned, x), _seconds(dense, x)
            else:
                before, after = _seconds(dense, x), _seconds(pruned, x)
            times.append((before, after))
    return Comparison(
        len(times),
        _quartiles([1e3 * before for before, _ in times]),
        _quartiles([1e3 * after for _, after in times]),
        _quartiles([after / before for before, after in times]),
    )


@torch.no_grad()
def by_module(module: nn.Module, x: Inputs, names: Sequence[str], rounds: int) -> dict[str, float]:
    """Seconds of a forward pass from each call of a named module to the next one's: medians over rounds.

    What follows a module unnamed (its norm, its activation) counts to it; what comes before the first, to none.
    """
    marks: list[tuple[str, float]] = []
    device = tensors(x)[0].device

    def mark(name: str) -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        marks.append((name, time.perf_counter()))

    hooks = [module.get_submodule(name).register_forward_pre_hook(lambda *_, n=name: mark(n)) for name in names]
    found: list[dict[str, float]] = []
    try:
        with evaluating(module):
            for _ in range(WARM_UP + rounds):
                marks.clear()
                run(module, x)
                mark("")
                spent = defaultdict[str, float](float)
                for (name, start), (_, end) in pairwise(marks):
                    spent[name] += end - start
                found.append(spent)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: statistics.median(spent[name] for spent in found[WARM_UP:]) for name in names}


def _seconds(module: nn.Module, x: Inputs) -> float:
    device = tensors(x)[0].device
    start = time.perf_counter()
    run(module, x)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def _quartiles(values: list[float]) -> Quartiles:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, low, high)
