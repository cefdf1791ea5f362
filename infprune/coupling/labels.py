"""Union-find over channel labels, vectorised: labels are int64 tensors, one class per coupled group."""

import torch
from torch import Tensor

FIXED = 0  # the label of everything that no cut may remove: inputs, constants, padding


class Labels:
    """Equivalence classes of integer labels, and the reasons why some of them may not be cut."""

    def __init__(self) -> None:
        self._parent = torch.zeros(1, dtype=torch.int64)
        self._frozen: list[tuple[Tensor, str]] = []

    def fresh(self, count: int) -> Tensor:
        """Make `count` new labels, each a class of its own."""
        new = torch.arange(len(self._parent), len(self._parent) + count)
        self._parent = torch.cat([self._parent, new])
        return new

    def find(self, labels: Tensor) -> Tensor:
        """Replace each label by the smallest one of its class. Shape as given, repetition kept as repetition."""
        return self._parent[compact(labels)].expand(labels.shape)

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
        while (todo := a != b).any():
            low, high = torch.minimum(a, b)[todo], torch.maximum(a, b)[todo]
            self._parent.scatter_reduce_(0, high, low, "amin")
            self._compress()
            a, b = self.find(low), self.find(high)

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

    def _compress(self) -> None:
        while not torch.equal(shorter := self._parent[self._parent], self._parent):
            self._parent = shorter


def compact(labels: Tensor) -> Tensor:
    """Drop repetition that `expand` made (stride 0), keeping the number of dimensions."""
    for dim, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if stride == 0 and size > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels
