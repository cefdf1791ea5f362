"""Divide sample indices in two, each class in the same share."""

import numpy as np
import torch
from torch import Tensor


def holdout(y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return (kept, held): sorted indices with round(share * N) held, at least one on each side.

    The samples are shuffled, grouped by class, and taken at even distances, so that the held count of every class is
    within one of its share, rare classes included. ``y`` holds the labels (N,), N >= 2.

    The shuffle is NumPy's legacy generator because its stream is frozen: a test row stays one after every upgrade.
    """
    count = len(y)
    held_count = min(max(round(share * count), 1), count - 1)
    shuffled = torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(count))
    grouped = shuffled[torch.argsort(y[shuffled], stable=True)]
    even = ((torch.arange(held_count, dtype=torch.float64) + 0.5) * (count / held_count)).long()
    is_held = torch.zeros(count, dtype=torch.bool)
    is_held[grouped[even]] = True
    return (~is_held).nonzero().flatten(), is_held.nonzero().flatten()
