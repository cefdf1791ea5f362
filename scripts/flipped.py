"""MNIST with a share of its labels flipped, and a small network for it: `data.factory=flipped:mnist_flipped`."""

import os
from pathlib import Path

import torch
from samples import mnist
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.data.dataset import ArrayDataset, Source

BACKGROUND = -0.13  # of the centred images


def mnist_flipped(samples: int = 5000, share: float = 0.1, seed: int = 0, test: int = 500) -> Source:
    """Training images of which `share` have a label drawn from the other nine; clean test images."""
    x, y, xt, yt = mnist(Path(os.environ["INFPRUNE_DATA"]), samples, test, dtype=torch.float32)
    wrong = flips(samples, share, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    y[wrong] = (y[wrong] + torch.randint(1, 10, (len(wrong),), generator=generator)) % 10
    return Source(ArrayDataset(x + BACKGROUND, y), ArrayDataset(xt + BACKGROUND, yt), 10, (1, 28, 28))


def flips(samples: int, share: float, seed: int) -> Tensor:
    """Which labels are flipped."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))[: round(share * samples)]


def network() -> nn.Module:
    """Three convolutions with batch norm on shifted images of half the size, dropout, a linear layer."""
    return nn.Sequential(
        Shifted(),
        nn.AvgPool2d(2),
        *_block(1, 16, 1),
        *_block(16, 32, 2),
        *_block(32, 64, 2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(1024, 10),
    )


def _block(inputs: int, channels: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, channels, 3, stride, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]


def perceptron() -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def linear() -> nn.Module:
    """A linear classifier of 49 means of pixels."""
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10))


class Shifted(nn.Module):
    """In train mode, shifts every image by up to `most` pixels; background enters."""

    def __init__(self, most: int = 2) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, _, height, width = x.shape
        down, across = torch.randint(0, 2 * self.most + 1, (2, n, 1))
        padded = F.pad(x, (self.most,) * 4, value=BACKGROUND)
        rows, columns = torch.arange(height) + down, torch.arange(width) + across
        return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
