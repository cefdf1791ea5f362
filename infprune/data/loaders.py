"""Batches of a dataset on a device, and random subsets; both leave the global random state alone."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from infprune.data.dataset import Part, Samples, stack
from infprune.errors import ConfigError
from infprune.forward import Inputs, move


class Batches:
    """A sized iterable of (x, y (N,)) on a device; each pass over a shuffled one has its own order."""

    def __init__(self, loader: DataLoader[Any], device: str | torch.device) -> None:
        self.loader = loader
        self.device = device

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for x, y in self.loader:
            yield move(x, self.device), y.to(self.device)


def batches(
    dataset: Samples,
    batch_size: int,
    shuffle_seed: int | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Batches:
    """Return the dataset in batches, the last one possibly smaller; in order, or shuffled with ``shuffle_seed``.

    Raises:
        ConfigError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"data.batch_size must be at least 1, got {batch_size}")
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", dataset),
        batch_size,
        shuffle=shuffle_seed is not None,
        num_workers=workers,
        collate_fn=stack,
        # Without a generator of its own, every pass of a DataLoader draws from the global one.
        generator=torch.Generator().manual_seed(shuffle_seed or 0),
    )
    return Batches(loader, device)


def subset(dataset: Samples, n: int, seed: int) -> Samples:
    """Return ``n`` random samples without replacement, in random order; all of them when there are no more.

    Raises:
        ConfigError: ``n`` is below 1.
    """
    if n < 1:
        raise ConfigError(f"expected at least 1 sample, got {n}; raise data.calibration")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return Part(dataset, order[:n])
