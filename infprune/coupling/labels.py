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
        """Replace each label by the smallest one of its class. Shape as given."""
        return self._parent[labels]

    def union(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Merge labels pairwise; what meets `FIXED` is frozen for `reason` instead."""
        pairs = torch.unique(torch.stack([a.reshape(-1), b.reshape(-1)]), dim=1)
        a, b = self.find(pairs[0]), self.find(pairs[1])
        fixed = (a == FIXED) ^ (b == FIXED)
        if fixed.any():
            self.freeze(torch.maximum(a, b)[fixed], reason)
        loose = (a != FIXED) & (b != FIXED)
        a, b = a[loose], b[loose]
        while (todo := a != b).any():
            low, high = torch.minimum(a, b)[todo], torch.maximum(a, b)[todo]
            self._parent.scatter_reduce_(0, high, low, "amin")
            self._compress()
            a, b = self.find(low), self.find(high)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Forbid cutting the classes of these labels."""
        labels = torch.unique(labels)
        labels = labels[labels != FIXED]
        if len(labels):
            self._frozen.append((labels, reason))

    def reasons(self) -> dict[int, str]:
        """The first reason met for each frozen class, by the class's smallest label."""
        found: dict[int, str] = {}
        for labels, reason in self._frozen:
            for root in torch.unique(self.find(labels)).tolist():
                found.setdefault(root, reason)
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


def varies(labels: Tensor, dim: int) -> bool:
    """Whether the labels change along `dim`."""
    flat = compact(labels)
    return bool((flat != flat.narrow(dim, 0, 1)).any())
