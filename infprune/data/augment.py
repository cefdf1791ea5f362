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
    if not isinstance(x, Tensor) or x.dim() != 4:
        raise ConfigError(f"data.augment=crop-flip needs images (C, H, W), got inputs of shape {shape(x)}; use none")
    n, _, height, width = x.shape
    mine = rows or Rows(0, n, n)
    dy, dx = map(mine.of, torch.randint(0, 2 * padding + 1, (2, mine.total, 1)))
    down = (torch.arange(height) + dy).to(x.device)
    across = (torch.arange(width) + dx).to(x.device)
    mirror = mine.of(torch.rand(mine.total, 1) < 0.5).to(x.device)
    across = torch.where(mirror, across.flip(1), across)
    sample = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (padding,) * 4)
    return padded.permute(0, 2, 3, 1)[sample, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def none(x: Inputs, *, rows: Rows | None = None) -> Inputs:
    """Leave them as they are."""
    del rows
    return x


AUGMENTATIONS: dict[str, Callable[..., Inputs]] = {"none": none, "crop-flip": crop_flip}
