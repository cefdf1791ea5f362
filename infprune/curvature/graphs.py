"""The batches of an objective at one point, each with an autograd graph that is kept while memory lasts."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from infprune import ranks
from infprune.curvature.objective import Objective
from infprune.errors import InputError
from infprune.forward import Inputs, each, head
from infprune.units import GIB

MEMORY = 2 * GIB  # bytes of graphs that are kept, and of one block of products
G = TypeVar("G")


class Graphs(Generic[G]):
    """Builds `build(theta, x, y)` per batch, theta one leaf `(P,)`; keeps the first graphs, makes others at each visit.

    Args:
        objective: whose batches.
        theta: the point, `(P,)`.
        build: makes what a product needs of a batch.
        memory: bytes that kept graphs may take, by what `build` saves of one or two samples.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        build: Callable[[Tensor, Inputs, Tensor], G],
        memory: int = MEMORY,
    ) -> None:
        self.objective, self.theta, self.memory = objective, theta, memory
        self._build, self._leaf = build, theta.detach().clone().requires_grad_()
        self._kept: list[tuple[int, G]] = []
        self.samples = self.largest = 0  # of all batches of this rank, of one
        self.per_sample = 0  # bytes
        room = float(memory)
        for x, y in objective.batches:
            self.per_sample = self.per_sample or self._measured(x, y)
            self.samples, self.largest = self.samples + len(y), max(self.largest, len(y))
            room -= self.per_sample * len(y)
            if room >= 0:
                self._kept.append((len(y), self._make(x, y)))
        if self.samples == 0:
            raise InputError("expected at least one sample for the curvature, got none; check the data")
        self.everywhere = ranks.totals(self.samples)[0]  # samples of all ranks

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
        per_column = max(1, self.largest * self.per_sample + self.theta.numel() * self.theta.itemsize)
        return max(1, int(self.memory // per_column))

    @torch.enable_grad()
    def _make(self, x: Inputs, y: Tensor) -> G:
        return self._build(self._leaf, x, y)

    def _measured(self, x: Inputs, y: Tensor) -> int:
        """Bytes that a graph holds per sample, besides theta and what the network holds anyway."""
        count = min(2, len(y))
        few, labels = each(Tensor.clone, head(x, count)), y[:count].clone()  # storages of their own
        held = chain([self._leaf], self.objective.module.parameters(), self.objective.module.buffers())
        return max(1, saved_bytes(lambda: self._make(few, labels), held) // max(1, count))


def saved_bytes(work: Callable[[], Any], held: Iterable[Tensor]) -> int:
    """Bytes that autograd saves during some work, each storage once, without those of the tensors `held`."""
    known = {t.untyped_storage().data_ptr() for t in held}
    saved: dict[int, torch.UntypedStorage] = {}  # alive until all are counted: a freed address is given to others

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return t.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        work()
    return sum(storage.nbytes() for storage in saved.values())


def convolutional(objective: Objective) -> bool:
    """Whether the network convolves: blocks of products are then faster one column at a time (docs/log.md)."""
    return any(isinstance(m, torch.nn.modules.conv._ConvNd) for m in objective.module.modules())  # noqa: SLF001
