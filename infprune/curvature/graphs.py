"""The batches of an objective at one point, each with an autograd graph that is kept while memory lasts."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from infprune.curvature.objective import Objective
from infprune.curvature.operator import GIB
from infprune.errors import InputError
from infprune.forward import Inputs, each, head, size

MEMORY = 2 * GIB  # bytes of graphs that are kept, and of one block of products
G = TypeVar("G")


class Graphs(Generic[G]):
    """Builds `build(theta, x, y)` per batch, theta a leaf `(P,)`; keeps the first ones, makes others at each visit.

    Args:
        objective: whose batches.
        theta: the point, `(P,)`.
        build: makes what a product needs of a batch.
        copies: how many times the activations of a forward pass a graph holds.
        memory: bytes that kept graphs may take; an estimate from the tensors that one forward pass saves.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        build: Callable[[Tensor, Inputs, Tensor], G],
        copies: int,
        memory: int = MEMORY,
    ) -> None:
        self.objective, self.theta, self.memory = objective, theta, memory
        self._build, self._copies = build, copies
        self._kept: list[tuple[int, G]] = []
        self.samples = 0
        self.per_sample = 0  # bytes
        room = float(memory)
        for x, y in objective.batches:
            self.per_sample = self.per_sample or copies * saved_bytes(objective, theta, x)
            self.samples += len(y)
            room -= self.per_sample * len(y)
            if room >= 0:
                self._kept.append((len(y), self._make(x, y)))
        if self.samples == 0:
            raise InputError("expected at least one sample for the curvature, got none; check the data")

    def __iter__(self) -> Iterator[tuple[int, G]]:
        """Number of samples and graph of each batch, in order."""
        yield from self._kept
        seen = len(self._kept)
        for i, (x, y) in enumerate(self.objective.batches if self.rebuilt else ()):
            if i >= seen:
                yield len(y), self._make(x, y)

    @property
    def rebuilt(self) -> bool:
        """Whether some batches are run again for every product."""
        return sum(n for n, _ in self._kept) < self.samples

    def together(self) -> int:
        """How many columns of a block of products fit into the memory at once."""
        largest = max((n for n, _ in self._kept), default=1)
        per_column = max(1, largest * self.per_sample + self.theta.numel() * self.theta.itemsize)
        return max(1, int(self.memory // per_column))

    def _make(self, x: Inputs, y: Tensor) -> G:
        leaf = self.theta.detach().clone().requires_grad_()
        return self._build(leaf, x, y)


def saved_bytes(objective: Objective, theta: Tensor, x: Inputs) -> int:
    """Bytes per sample that a forward pass saves for its backward pass, from one or two samples."""
    count = min(2, size(x))
    total = 0

    def keep(t: Tensor) -> Tensor:
        nonlocal total
        if t.numel() and t.shape[:1] != theta.shape:  # theta and its views are held once
            total += t.numel() * t.itemsize
        return t.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        objective.outputs(theta.detach().requires_grad_(), each(Tensor.detach, head(x, count)))
    weights = sum(objective.space.sizes) * theta.itemsize
    return max(1, (total - min(weights, total // 2)) // count)


def convolutional(objective: Objective) -> bool:
    """Whether the network convolves: blocks of products are then faster one column at a time (docs/log.md)."""
    return any(isinstance(m, torch.nn.modules.conv._ConvNd) for m in objective.module.modules())  # noqa: SLF001
