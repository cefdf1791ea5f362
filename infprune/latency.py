"""Dense against pruned on this machine's clock: paired measurements, and whether they show a difference."""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

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
