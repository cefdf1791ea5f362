"""Accuracy and loss of a classifier on a split."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.errors import ArchitectureError, InputError
from infprune.forward import Inputs, logits
from infprune.modes import evaluating


@dataclass(frozen=True)
class Evaluation:
    """`accuracy`: share of samples whose largest logit is the label (top 1). `loss`: mean cross-entropy in nats."""

    accuracy: float
    loss: float
    samples: int


@torch.no_grad()
def evaluate(module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]]) -> Evaluation:
    """Measure `module` in eval mode over all batches.

    Raises:
        ArchitectureError: the outputs are not logits `(N, classes)` that fit the labels.
        InputError: no samples, or outputs that are not finite.
    """
    right, loss, samples = 0, 0.0, 0
    with evaluating(module):
        for x, y in batches:
            z = logits(module, x)
            if z.shape[1] <= int(y.max()):
                got = tuple(z.shape)
                raise ArchitectureError(f"expected logits (N, classes) with classes > {int(y.max())}, got {got}")
            right += int((z.argmax(1) == y).sum())
            loss += float(F.cross_entropy(z.float(), y, reduction="sum"))
            samples += len(y)
    if samples == 0:
        raise InputError("expected samples to evaluate on, got an empty split")
    if not math.isfinite(loss):
        raise InputError("the network's outputs are not finite on this split; check weights and data for NaN")
    return Evaluation(right / samples, loss / samples, samples)
