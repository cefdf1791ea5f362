"""Random changes to training images, drawn from torch's global generator (seeded by the training loop)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from infprune.errors import ConfigError
from infprune.forward import Inputs, shape


def crop_flip(x: Inputs, padding: int = 4) -> Tensor:
    """Shift every image by up to `padding` pixels (zeros enter) and mirror half of them. `(N, C, H, W)`.

    Raises:
        ConfigError: the inputs are no images.
    """
    if not isinstance(x, Tensor) or x.dim() != 4:
        raise ConfigError(f"data.augment=crop-flip needs images (C, H, W), got inputs of shape {shape(x)}; use none")
    n, _, height, width = x.shape
    dy, dx = torch.randint(0, 2 * padding + 1, (2, n, 1))
    rows = (torch.arange(height) + dy).to(x.device)
    columns = (torch.arange(width) + dx).to(x.device)
    mirror = (torch.rand(n, 1) < 0.5).to(x.device)
    columns = torch.where(mirror, columns.flip(1), columns)
    sample = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (padding,) * 4)
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


AUGMENTATIONS: dict[str, Callable[[Inputs], Inputs]] = {"none": lambda x: x, "crop-flip": crop_flip}
