"""The network and the dataset that cases of a user's own name."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from infprune.data.dataset import ArrayDataset, Source

SAMPLES = 300


def network(channels: int = 1) -> nn.Module:
    """Two layers for images of any size."""
    first = nn.Conv2d(channels, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))


class Faulty(Dataset[Any]):
    """Images of noise, but for one sample."""

    def __init__(self, fault: str, at: int) -> None:
        self.fault, self.at = fault, at
        self.x = torch.rand(SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return SAMPLES if self.fault != "length" else 2 * SAMPLES

    def __getitem__(self, index: int) -> Any:
        if index != self.at:
            return self.x[index], index % 10
        return self._bad(index)

    def _bad(self, index: int) -> Any:
        if self.fault == "raises":
            raise KeyError("no such\nsample")
        if self.fault == "dies":
            raise OSError(5, "Input/output error")
        if self.fault == "memory":
            raise MemoryError
        if self.fault == "exit":
            raise SystemExit(1)
        found: dict[str, Any] = {
            "label": (self.x[index], 12),
            "nan": (self.x[index] * float("nan"), 1),
            "shape": (torch.rand(1, 9, 8), 1),
            "dtype": (self.x[index].double(), 1),
            "text": ("x", 1),
            "none": None,
        }
        return found.get(self.fault, (self.x[index], 1))


def dataset(fault: str, at: int, part: str) -> Source:
    """Noise in ten classes with one fault in one part."""
    y: Tensor = torch.arange(SAMPLES) % 10
    sound = ArrayDataset(torch.rand(SAMPLES, 1, 8, 8), y)
    bad = Faulty(fault, at)
    return Source(bad if part == "train" else sound, bad if part == "test" else sound, 10, (1, 8, 8))
