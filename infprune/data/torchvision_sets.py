"""MNIST, FashionMNIST, CIFAR-10 and CIFAR-100 in torchvision's folder layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infprune.data.dataset import ArrayDataset, DataRequest, Source
from infprune.data.pixels import normalisation
from infprune.errors import ConfigError, InputError
from infprune.imports import one_line


@dataclass(frozen=True)
class _Facts:
    """torchvision's class name, the number of classes, and the usual statistics of the training pixels."""

    kind: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_MNIST = _Facts("MNIST", 10, (0.1307,), (0.3081,))
_FASHION_MNIST = _Facts("FashionMNIST", 10, (0.2860,), (0.3530,))
_CIFAR10 = _Facts("CIFAR10", 10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = _Facts("CIFAR100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def mnist(request: DataRequest) -> Source:
    """Return handwritten digits (N, 1, 28, 28): 60,000 to train, 10,000 to test."""
    return _load(_MNIST, request)


def fashion_mnist(request: DataRequest) -> Source:
    """Return clothing images (N, 1, 28, 28): 60,000 to train, 10,000 to test."""
    return _load(_FASHION_MNIST, request)


def cifar10(request: DataRequest) -> Source:
    """Return ten classes of colour images (N, 3, 32, 32): 50,000 to train, 10,000 to test."""
    return _load(_CIFAR10, request)


def cifar100(request: DataRequest) -> Source:
    """Return a hundred classes of colour images (N, 3, 32, 32): 50,000 to train, 10,000 to test."""
    return _load(_CIFAR100, request)


def _load(facts: _Facts, request: DataRequest) -> Source:
    """Return both parts, normalised with ``args.mean`` and ``args.std`` (default: the usual statistics).

    ``args.classes`` lists the labels to keep (default: all), which become 0, 1, ... in the order given. The usual
    statistics stay those of all classes.

    Raises:
        ConfigError: a statistic or ``args.classes`` does not fit the dataset.
        InputError: the files are missing or corrupt.
    """
    options = request.options(mean=facts.mean, std=facts.std, classes=None)
    normalise = normalisation(options["mean"], options["std"], len(facts.mean))
    chosen = _chosen(options["classes"], facts.classes)
    folder = request.folder()
    parts = (_read(facts.kind, folder, train=part, download=request.download) for part in (True, False))
    train, test = (
        ArrayDataset(normalise(pixels), y)
        for pixels, y in (part if chosen is None else _keep(chosen, *part) for part in parts)
    )
    return Source(train, test, len(chosen or range(facts.classes)), train.input_shape)


def _chosen(classes: Any, count: int) -> list[int] | None:
    if classes is None:
        return None
    known = isinstance(classes, list) and all(type(c) is int and 0 <= c < count for c in classes)
    if not known or not 1 < len(set(classes)) == len(classes):
        raise ConfigError(
            f"data.args.classes must be a list of two or more different labels from 0 to {count - 1}, got {classes!r}"
        )
    return list(classes)


def _keep(chosen: list[int], pixels: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the samples (N, ...) of the chosen labels, and each one's place among them."""
    matches = y[:, None] == torch.tensor(chosen)
    kept = matches.any(1)
    return pixels[kept], matches[kept].int().argmax(1)


def _read(kind: str, folder: Path, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Return pixels uint8 (N, C, H, W) and labels (N,)."""
    from torchvision import datasets  # noqa: PLC0415 - two seconds that digits need not pay

    try:
        found = getattr(datasets, kind)(folder, train=train, download=download)
    except Exception as error:  # a damaged file can raise anything
        if download:
            raise InputError(f"{kind} could not be downloaded to {folder}: {one_line(error)}; try again") from error
        if "not found" in str(error):  # torchvision's words; by its checksums "or corrupted" for CIFAR
            state = "not found or corrupt" if "corrupt" in str(error) else "not found"
            raise InputError(
                f"{kind} {state} under {folder}; set data.root, INFPRUNE_DATA or data.download=true"
            ) from error
        raise InputError(f"{kind} under {folder} is corrupt ({one_line(error)}); fetch its files again") from error
    pixels, y = torch.as_tensor(found.data), torch.as_tensor(found.targets)
    return (pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)), y
