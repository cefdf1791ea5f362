"""Batches of a dataset on a device, and random subsets; both leave the global random state alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from infprune import ranks
from infprune.data.ahead import ahead
from infprune.data.dataset import Changed, Part, Samples, stack
from infprune.data.image_folder import FolderDataset
from infprune.errors import ConfigError
from infprune.forward import Inputs, move


class Batches:
    """A sized iterable of (x, y (N,)) on a device; each pass over a shuffled one has its own order."""

    def __init__(self, loader: DataLoader[Any], device: str | torch.device) -> None:
        self.loader = loader
        self.device = device

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, which: slice) -> "Batches":
        """Some of the batches, of those in order."""
        assert isinstance(self.loader.sampler, SequentialSampler)
        step, dataset = self._size, cast("Samples", self.loader.dataset)
        start, stop, _ = which.indices(len(self))
        rows = torch.arange(start * step, max(start * step, min(stop * step, len(dataset))))
        return batches(Part(dataset, rows), step, device=self.device)

    @property
    def _size(self) -> int:
        assert self.loader.batch_size is not None
        return self.loader.batch_size

    @property
    def sizes(self) -> list[int]:
        """Samples in each batch."""
        step, samples = self._size, len(cast("Samples", self.loader.dataset))
        return [min(step, samples - i * step) for i in range(len(self))]

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        moved = ((move(x, self.device), y.to(self.device)) for x, y in self.loader)
        return ahead(moved) if decoded_when_read(self.loader.dataset) else moved


def decoded_when_read(dataset: object) -> bool:
    """Whether reading samples takes long enough to be done beside the work on the ones before.

    Samples in memory gain nothing; those of a user's own dataset may draw from the global random state, which two
    threads would share.
    """
    while isinstance(dataset, Part | Changed):
        dataset = dataset.base
    return isinstance(dataset, FolderDataset)


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


@dataclass(frozen=True)
class Rows:
    """This rank's part of a batch of `total` samples: from `start` on, before `stop`.

    A batch that leaves some rank fewer than two samples is everybody's, whole: batch norm needs two.
    """

    start: int
    stop: int
    total: int

    @property
    def everybodys(self) -> bool:
        """Whether all ranks have the same, whole batch."""
        return self.stop - self.start == self.total

    def of(self, drawn: Tensor) -> Tensor:
        """The rows of a tensor `(total, ...)`."""
        return drawn[self.start : self.stop]


def rows(total: int) -> Rows:
    """This rank's rows of a batch; one process has all of them."""
    return Rows(0, total, total) if total < 2 * ranks.world() else Rows(*ranks.part(total), total)


class _Shared(Sampler[list[int]]):
    """This rank's rows of each batch that `whole` draws."""

    def __init__(self, whole: BatchSampler) -> None:
        self._whole = whole

    def __len__(self) -> int:
        return len(self._whole)

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self._whole:
            mine = rows(len(indices))
            yield indices[mine.start : mine.stop]


def shared_batches(dataset: Samples, batch_size: int, shuffle_seed: int, device: str | torch.device) -> Batches:
    """The batches of `batches(..., shuffle_seed)`, of which each rank loads its `rows`."""
    generator = torch.Generator().manual_seed(shuffle_seed)
    whole = BatchSampler(RandomSampler(dataset, generator=generator), batch_size, drop_last=False)
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", dataset), batch_sampler=_Shared(whole), collate_fn=stack, generator=generator
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
