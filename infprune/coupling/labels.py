"""Union-find over channel labels, vectorised: labels are int64 tensors, one class per coupled group."""

from collections.abc import Sequence

import torch
from torch import Tensor

FIXED = 0  # the label of everything that no cut may remove: inputs, constants, padding


class Labels:
    """Equivalence classes of integer labels, and the reasons why some of them may not be cut."""

    def __init__(self) -> None:
        self._parent = torch.arange(1024)  # longer than needed, so that it grows seldom
        self._count = 1
        self._frozen: list[tuple[Tensor, str]] = []

    def fresh(self, count: int) -> Tensor:
        """Make `count` new labels, each a class of its own."""
        new = torch.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._parent):
            self._parent = torch.cat([self._parent, torch.arange(len(self._parent), 2 * self._count)])
        return new

    def find(self, labels: Tensor) -> Tensor:
        """Replace each label by the smallest one of its class. Shape as given, repetition kept as repetition."""
        return self._parent[compact(labels)].expand(labels.shape)

    def reduced(self, labels: Tensor) -> Tensor:
        """The same classes, with repetition along every dimension on which they do not depend."""
        small = self.find(compact(labels))
        for dim in range(small.dim()):
            first = small.narrow(dim, 0, 1)
            if small.shape[dim] > 1 and torch.equal(first.expand_as(small), small):
                small = first
        return small.expand(labels.shape)

    def union(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Merge labels pairwise; what meets `FIXED` is frozen for `reason` instead."""
        a, b = self.find(a.reshape(-1)), self.find(b.reshape(-1))
        differ = a != b
        if not bool(differ.any()):
            return
        pairs = torch.unique(a[differ] * len(self._parent) + b[differ])
        a, b = pairs // len(self._parent), pairs % len(self._parent)
        fixed = (a == FIXED) ^ (b == FIXED)
        if fixed.any():
            self.freeze(torch.maximum(a, b)[fixed], reason)
        a, b = a[~fixed], b[~fixed]
        roots, at = torch.unique(torch.stack([a, b]), return_inverse=True)
        lowest = _components(len(roots), at[0], at[1])
        renamed = torch.arange(self._count)
        renamed[roots] = roots[lowest]
        self._parent[: self._count] = renamed[self._parent[: self._count]]

    def varies(self, labels: Tensor, dim: int) -> bool:
        """Whether different classes stand along `dim`."""
        if labels.shape[dim] == 1 or labels.stride(dim) == 0:
            return False
        flat = self.find(compact(labels))
        return bool((flat != flat.narrow(dim, 0, 1)).any())

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Forbid cutting the classes of these labels."""
        labels = torch.unique(labels)
        labels = labels[labels != FIXED]
        if len(labels):
            self._frozen.append((labels, reason))

    def loose(self, labels: Tensor) -> Tensor:
        """The labels with `FIXED` in place of those frozen so far."""
        if not self._frozen:
            return labels
        small = compact(labels)
        frozen = torch.isin(self.find(small), self.find(torch.cat([found for found, _ in self._frozen])))
        return small.masked_fill(frozen, FIXED).expand(labels.shape)

    def reasons(self) -> dict[int, str]:
        """The first reason met for each frozen class, by the class's smallest label."""
        return self.roots(self._frozen)

    def roots(self, told: list[tuple[Tensor, str]]) -> dict[int, str]:
        """The first text told about each class, by the class's smallest label."""
        found: dict[int, str] = {}
        for labels, text in told:
            for root in torch.unique(self.find(labels)).tolist():
                found.setdefault(root, text)
        return found


def _components(count: int, a: Tensor, b: Tensor) -> Tensor:
    """The smallest member of each node's component in the graph with edges `a - b`: `(count,)`."""
    lowest = torch.arange(count)
    while True:
        low = torch.minimum(lowest[a], lowest[b])
        new = lowest.scatter_reduce(0, torch.cat([lowest[a], lowest[b]]), torch.cat([low, low]), "amin")
        new = new[new]
        if torch.equal(new, lowest):
            return lowest
        lowest = new


def constant(shape: Sequence[int]) -> Tensor:
    """The labels of values that no cut may change."""
    return torch.full((1,) * len(shape), FIXED).expand(tuple(shape))


def compact(labels: Tensor) -> Tensor:
    """Drop repetition that `expand` made (stride 0), keeping the number of dimensions."""
    for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if stride == 0 and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels
