"""What a dataset is here: a sized sequence of (x, y int), x one tensor or several, in three parts."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from infprune.errors import ConfigError, InputError
from infprune.files import is_folder
from infprune.forward import Inputs, Shape, each, rows, shape, tensors


class Samples(Protocol):
    """Any sized map-style dataset of (x, y); one with ``__getitems__`` hands out whole batches at once.

    x is a float32 tensor, or int64 (token ids), or a tuple of such tensors: the arguments of the network's ``forward``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Inputs, int]: ...


@dataclass(frozen=True)
class DataRequest:
    """What the configuration says about a named dataset."""

    name: str
    root: Path | None
    download: bool
    args: Mapping[str, Any]

    def folder(self) -> Path:
        """Return the data folder: ``root``, else the environment variable INFPRUNE_DATA.

        Raises:
            InputError: neither is set, or it is no folder (and ``download`` may not create it).
        """
        root = self.root or os.environ.get("INFPRUNE_DATA")
        if not root:
            raise InputError(f"dataset {self.name} needs a folder; set data.root or the variable INFPRUNE_DATA")
        folder = Path(root).expanduser()
        if not is_folder(folder) and not self.download:
            raise InputError(f"data folder {folder} not found; set data.root or INFPRUNE_DATA to a folder that exists")
        return folder

    def options(self, **defaults: Any) -> dict[str, Any]:
        """Return ``args`` over their defaults.

        Raises:
            ConfigError: an argument that has no default here.
        """
        unknown = sorted(str(key) for key in self.args if key not in defaults)
        if unknown:
            allowed = f"it takes {', '.join(defaults)}" if defaults else "it takes none"
            raise ConfigError(f"data.args of {self.name} has unknown names {unknown}; {allowed}")
        return {**defaults, **self.args}


@dataclass(frozen=True)
class Backdoor:
    """What was done to a training part on purpose, so that it can be taken back (`infprune unlearn`).

    ``poisoned`` (m,): ascending positions in the training part, stamped by ``trigger`` and labelled ``target``;
    ``labels`` (m,): what they really are. ``trigger`` stamps a batch of inputs.
    """

    poisoned: Tensor
    labels: Tensor
    target: int
    trigger: Callable[[Inputs], Inputs]


@dataclass(frozen=True)
class Source:
    """What a dataset file returns; ``input_shape`` is one sample's, without N: a tuple of them for several inputs.

    ``features`` names the columns of an ``input_shape`` (I,), in order; None where they have no names.
    """

    train: Samples
    test: Samples
    classes: int
    input_shape: Shape
    features: tuple[str, ...] | None = None
    backdoor: Backdoor | None = None


@dataclass(frozen=True)
class Splits:
    """A source with a validation part held out of its training part; the test part decides nothing."""

    train: Samples
    validation: Samples
    test: Samples
    classes: int
    input_shape: Shape
    features: tuple[str, ...] | None = None
    backdoor: Backdoor | None = None


class ArrayDataset(Dataset[tuple[Inputs, int]]):
    """Samples in memory: ``x`` (N, ...) float32 and ``y`` (N,) int64; in a tuple of inputs, int64 ones stay int64."""

    def __init__(self, x: Inputs, y: Tensor) -> None:
        if y.ndim != 1 or any(len(t) != len(y) for t in tensors(x)):
            found = " and ".join(str(tuple(t.shape)) for t in tensors(x))
            raise InputError(f"expected one label per sample, got x {found} and y {tuple(y.shape)}")
        several = isinstance(x, tuple)
        self.x = each(lambda t: t if several and t.dtype == torch.int64 else t.to(torch.float32), x)
        self.y = y.to(torch.int64)

    @property
    def input_shape(self) -> Shape:
        """One sample's shape."""
        return shape(self.x)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Inputs, int]:
        return each(lambda t: t[index], self.x), int(self.y[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return rows(self.x, chosen), self.y[chosen]


class Part(Dataset[tuple[Inputs, int]]):
    """The samples of ``base`` at ``indices`` (N,), in that order; nothing is copied."""

    def __init__(self, base: Samples, indices: Tensor) -> None:
        self.base = base
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Inputs, int]:
        return self.base[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        return gather(self.base, self.indices[torch.as_tensor(indices, dtype=torch.int64)].tolist())


class Changed(Dataset[tuple[Inputs, int]]):
    """The samples of ``base`` with other labels ``y`` (N,), other inputs (``change``, of a batch), or both."""

    def __init__(
        self, base: Samples, y: Tensor | None = None, change: Callable[[Inputs], Inputs] | None = None
    ) -> None:
        self.base, self.change = base, change
        known = labels(base) if y is None else y
        if known is not None:
            self.y = known

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> tuple[Inputs, int]:
        x, y = self.__getitems__([index])
        return each(lambda t: t[0], x), int(y[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        x, y = gather(self.base, indices)
        if hasattr(self, "y"):
            y = self.y[torch.as_tensor(indices, dtype=torch.int64)]
        return (x if self.change is None else self.change(x)), y


def gather(dataset: Samples, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
    """Return the samples at ``indices`` as one batch: x (N, ...) or several of them, and y (N,)."""
    whole = getattr(dataset, "__getitems__", None)
    return stack(whole(indices) if whole else [dataset[index] for index in indices])


def stack(batch: Any) -> tuple[Inputs, Tensor]:
    """Return a whole batch as it is and a list of samples (what foreign datasets give) as a batch."""
    x, y = batch if isinstance(batch, tuple) else default_collate(batch)
    return tuple(x) if isinstance(x, list) else x, y


def labels(dataset: Samples) -> Tensor | None:
    """Return all labels (N,) if the dataset keeps them apart from its inputs, as a tensor ``y``, else None."""
    if isinstance(dataset, Part):
        whole = labels(dataset.base)
        return None if whole is None else whole[dataset.indices]
    y = getattr(dataset, "y", None)
    return y if isinstance(y, Tensor) and y.shape == (len(dataset),) else None
