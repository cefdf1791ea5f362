"""MNIST with a share of its labels flipped, and a small network for it: `data.factory=flipped:mnist_flipped`."""

import os
from pathlib import Path

import torch
from samples import mnist
from torch import Tensor, nn

from infprune.data.dataset import ArrayDataset, Source


def mnist_flipped(samples: int = 5000, share: float = 0.1, seed: int = 0) -> Source:
    """Training images of which `share` have a label drawn from the other nine; 500 clean test images."""
    x, y, xt, yt = mnist(Path(os.environ["INFPRUNE_DATA"]), samples, 500, dtype=torch.float32)
    wrong = flips(samples, share, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    y[wrong] = (y[wrong] + torch.randint(1, 10, (len(wrong),), generator=generator)) % 10
    return Source(ArrayDataset(x - 0.13, y), ArrayDataset(xt - 0.13, yt), 10, (1, 28, 28))


def flips(samples: int, share: float, seed: int) -> Tensor:
    """Which labels are flipped."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))[: round(share * samples)]


def network() -> nn.Module:
    """Two strided convolutions and two linear layers, 129,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(1568, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(64, 10),
    )
