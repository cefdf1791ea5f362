"""What filters do on given samples: mean activation and mean output gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infprune.curvature.sweep import Batches, LabelSource, Observer, Sweep

CONVOLUTIONS = nn.modules.conv._ConvNd  # noqa: SLF001 - base of all convolutions
KINDS = (CONVOLUTIONS, nn.Linear)


@dataclass(frozen=True)
class Activity:
    """By module name, `(C,)`: mean |output| over samples and positions, and mean |d l_n / d output| of them."""

    activation: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]


def filtered(module: nn.Module) -> list[str]:
    """The convolutions and linear layers, by name; of those that share a weight the first."""
    seen, found = set[int](), []
    for name, m in module.named_modules():
        if isinstance(m, KINDS) and id(m.weight) not in seen:
            seen.add(id(m.weight))
            found.append(name)
    return found


def activity(module: nn.Module, names: Sequence[str], batches: Batches) -> Activity:
    """Run one pass, with the loss at the labels that the batches carry.

    Raises:
        InputError: the outputs are not finite.
    """
    observer = _Watching(names)
    Sweep(module, names, [observer]).run(batches, seed=0, draws=1)
    return observer.result()


class _Watching(Observer):
    """Sums |output| and |gradient| of each filter."""

    labels = LabelSource.DATA

    def __init__(self, names: Sequence[str]) -> None:
        self.outputs = frozenset(names)
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}

    def output_gradient(self, name: str, module: Any, y: Tensor | None, gradient: Tensor) -> None:
        """Add a batch of a layer."""
        assert y is not None
        values = [_by_filter(module, t) for t in (y, gradient)]
        before = self._sums.get(name, [torch.zeros_like(v[0]) for v in values])
        self._sums[name] = [b + v.sum(0) for b, v in zip(before, values, strict=True)]
        self._counts[name] = self._counts.get(name, 0) + len(values[0])

    def result(self) -> Activity:
        """Means over samples and positions."""
        found = [{n: s[i] / self._counts[n] for n, s in self._sums.items()} for i in (0, 1)]
        return Activity(*found)


def _by_filter(module: nn.Module, t: Tensor) -> Tensor:
    """|t| with one row per sample and position: `(N * P, C)`."""
    t = t.detach().abs()
    return t.flatten(2).movedim(1, 2).flatten(0, 1) if isinstance(module, CONVOLUTIONS) else t.flatten(0, -2)
