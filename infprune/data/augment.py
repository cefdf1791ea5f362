"""Random changes to training images, drawn from torch's global generator (seeded by the training loop)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from infprune.data.loaders import Rows
from infprune.errors import ConfigError
from infprune.forward import Inputs, shape


def crop_flip(x: Inputs, padding: int = 4, *, rows: Rows | None = None) -> Tensor:
    """Shift every image by up to `padding` pixels (zeros enter) and mirror half of them. `(N, C, H, W)`.

    Chance is drawn for the whole batch of which x are the `rows` (None: all), so that it does not depend on the ranks.

    Raises:
        ConfigError: the inputs are no images.
    """
    x, mine = _images("crop-flip", x, rows)
    down, across = _shifts(x, padding, mine)
    mirror = mine.of(torch.rand(mine.total, 1) < 0.5).to(x.device)
    return _windows(F.pad(x, (padding,) * 4), down, torch.where(mirror, across.flip(1), across))


def crop(x: Inputs, padding: int = 2, *, rows: Rows | None = None) -> Tensor:
    """Shift every image by up to `padding` pixels, its edge repeated; for digits, which must not be mirrored.

    Chance as in `crop_flip`.

    Raises:
        ConfigError: the inputs are no images.
    """
    x, mine = _images("crop", x, rows)
    return _windows(F.pad(x, (padding,) * 4, mode="replicate"), *_shifts(x, padding, mine))


def _images(name: str, x: Inputs, rows: Rows | None) -> tuple[Tensor, Rows]:
    if not isinstance(x, Tensor) or x.dim() != 4:
        raise ConfigError(f"data.augment={name} needs images (C, H, W), got inputs of shape {shape(x)}; use none")
    return x, rows or Rows(0, len(x), len(x))


def _shifts(x: Tensor, padding: int, mine: Rows) -> tuple[Tensor, Tensor]:
    """Rows `(N, H)` and columns `(N, W)` of the padded images that are seen."""
    dy, dx = map(mine.of, torch.randint(0, 2 * padding + 1, (2, mine.total, 1)))
    height, width = x.shape[2:]
    return (torch.arange(height) + dy).to(x.device), (torch.arange(width) + dx).to(x.device)


def _windows(padded: Tensor, down: Tensor, across: Tensor) -> Tensor:
    sample = torch.arange(len(padded), device=padded.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def none(x: Inputs, *, rows: Rows | None = None) -> Inputs:
    """Leave them as they are."""
    del rows
    return x


AUGMENTATIONS: dict[str, Callable[..., Inputs]] = {"none": none, "crop": crop, "crop-flip": crop_flip}
