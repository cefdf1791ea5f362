"""The samples of some classes, with labels 0, 1, ... in the order given."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from infprune.data.dataset import Part, Samples, gather, labels
from infprune.errors import ConfigError, InputError
from infprune.forward import Inputs

CHUNK = 4096


class Chosen(Dataset[tuple[Inputs, int]]):
    """The samples of `base` at `indices`, with labels of their own, `y` (N,)."""

    def __init__(self, base: Samples, indices: Tensor, y: Tensor) -> None:
        self._part = Part(base, indices)
        self.indices, self.y = indices, y

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> tuple[Inputs, int]:
        return self._part[index][0], int(self.y[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        return self._part.__getitems__(indices)[0], self.y[torch.as_tensor(indices, dtype=torch.int64)]


def chosen(base: Samples, classes: Sequence[int], count: int, where: str) -> Chosen:
    """Keep some of the `count` classes of a part; `where` names the setting.

    Raises:
        ConfigError: a label that the data does not have, or one given twice.
        InputError: a class without samples.
    """
    if len(set(classes)) < len(classes) or not all(0 <= c < count for c in classes):
        raise ConfigError(f"{where}: expected different labels from 0 to {count - 1}, got {list(classes)}")
    y = all_labels(base)
    matches = y[:, None] == torch.tensor(classes)
    empty = [c for c, found in zip(classes, matches.any(0).tolist(), strict=True) if not found]
    if empty:
        raise InputError(f"{where}: the data has no sample of class {', '.join(map(str, empty))}; choose other labels")
    kept = matches.any(1).nonzero()[:, 0]
    return Chosen(base, kept, matches[kept].int().argmax(1))


def all_labels(base: Samples) -> Tensor:
    """The labels of all samples, read one batch after the other where the data does not keep them apart."""
    found = labels(base)
    if found is not None:
        return found
    parts = [gather(base, range(i, min(i + CHUNK, len(base))))[1] for i in range(0, len(base), CHUNK)]
    return torch.cat(parts)


def original(samples: Samples, index: int) -> int:
    """The place of a sample in the data that parts were taken of."""
    while isinstance(samples, Part | Chosen):
        index = int(samples.indices[index])
        samples = samples.base if isinstance(samples, Part) else samples._part.base  # noqa: SLF001 - own class
    return index
