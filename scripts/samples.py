"""MNIST for the scripts about the influence of data: pixels from 0 to 1, the first samples of a seeded order."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from infprune.data.dataset import gather
from infprune.data.splits import load


def mnist(
    root: Path | None,
    train: int,
    test: int,
    *,
    size: int = 28,
    classes: list[int] | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training inputs and labels, test inputs and labels; `size` 14 or 7: the means of squares of pixels.

    `classes`: the digits to keep, which become 0, 1, ...; None: all ten. The order is always the same.
    """
    args = {"mean": [0.0], "std": [1.0], "classes": classes}
    found = load("mnist", None, root, download=False, args=args, validation=0.1, seed=0)
    parts = []
    for part, count in ((found.train, train), (found.test, test)):
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:count]
        x, y = gather(part, order.tolist())
        assert isinstance(x, Tensor)
        parts += [F.avg_pool2d(x.to(dtype), 28 // size), y]
    return parts[0], parts[1], parts[2], parts[3]
