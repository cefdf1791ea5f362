"""Samples as pictures, where they are images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.forward import Inputs


@dataclass(frozen=True)
class Picture:
    """An image `(height, width, channels)` as bytes, row by row."""

    height: int
    width: int
    channels: int
    pixels: bytes


def picture(x: Inputs) -> Picture | None:
    """An image `(C, H, W)` or `(H, W)` of one or three channels, its least value black and its greatest white.

    What normalised it is not known here. None: it is no image.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    image = x[None] if x.dim() == 2 else x
    if image.dim() != 3 or len(image) not in (1, 3) or min(image.shape[1:]) < 2:
        return None
    low, high = image.min(), image.max()
    grey = ((image - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    channels, height, width = grey.shape
    return Picture(height, width, channels, grey.permute(1, 2, 0).contiguous().cpu().numpy().tobytes())
