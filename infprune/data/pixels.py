"""Images as bytes, and their one way to float32."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from infprune.errors import ConfigError


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 (..., C, H, W) to float32: (pixels / 255 - mean) / std."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.to(torch.float32) / 255 - mean) / std


def normalisation(mean: Any, std: Any, channels: int) -> Normalisation:
    """Return the normalisation that ``data.args.mean`` and ``data.args.std`` ask for.

    Raises:
        ConfigError: one of them is no list of ``channels`` numbers, or a deviation is not positive.
    """
    given = {"mean": mean, "std": std}
    for name, values in given.items():
        numbers = isinstance(values, Sequence) and all(isinstance(value, int | float) for value in values)
        if not numbers or len(values) != channels or (name == "std" and min(values) <= 0):
            kind = "positive numbers" if name == "std" else "numbers"
            raise ConfigError(f"data.args.{name} must be a list of {channels} {kind}, one per channel, got {values!r}")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


class PixelDataset(Dataset[tuple[Tensor, int]]):
    """Images in memory as uint8 (N, C, H, W), normalised when read: a quarter of the float32 size."""

    def __init__(self, pixels: Tensor, y: Tensor, normalise: Normalisation) -> None:
        self.pixels = pixels
        self.y = y
        self.normalise = normalise

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.normalise(self.pixels[index]), int(self.y[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.normalise(self.pixels[chosen]), self.y[chosen]
