"""Accuracy and loss of a classifier on a split; what two of them agree on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune import ranks
from infprune.errors import ArchitectureError, InputError
from infprune.forward import Inputs, logits
from infprune.layout import arranged
from infprune.modes import evaluating


@dataclass(frozen=True)
class Evaluation:
    """`accuracy`: share of samples whose largest logit is the label (top 1). `loss`: mean cross-entropy in nats."""

    accuracy: float
    loss: float
    samples: int


@dataclass(frozen=True)
class Contrast:
    """Two classifiers on the same samples.

    `agreement`: share of samples whose largest logit is the same. `kl`: mean of KL(p_a || p_b) = sum p_a log(p_a / p_b)
    over the classes, in nats.
    """

    a: Evaluation
    b: Evaluation
    agreement: float
    kl: float


@torch.no_grad()
def evaluate(module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]]) -> Evaluation:
    """Measure `module` in eval mode over all batches, which the ranks share.

    Raises:
        ArchitectureError: the outputs are not logits `(N, classes)` that fit the labels.
        InputError: no samples, or outputs that are not finite.
    """
    tally = _Tally()
    with evaluating(module):
        for x, y in arranged(module, ranks.share(batches).batches):
            tally.add(logits(module, x), y)
    return tally.total()


@dataclass(frozen=True)
class Answers:
    """What a classifier says to each sample, on the CPU: its largest logit's class, the loss in nats, the label."""

    predicted: Tensor
    loss: Tensor
    y: Tensor

    @property
    def accuracy(self) -> float:
        """Share of samples whose largest logit is the label."""
        return float((self.predicted == self.y).double().mean())


@torch.no_grad()
def answers(module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]]) -> Answers:
    """Ask `module` in eval mode about every sample: `(N,)` each.

    Raises:
        ArchitectureError: the outputs are not logits `(N, classes)` that fit the labels.
        InputError: no samples, or outputs that are not finite.
    """
    tally, found = _Tally(), []
    with evaluating(module):
        for x, y in arranged(module, batches):
            z = logits(module, x)
            tally.add(z, y)
            found.append((z.argmax(1).cpu(), F.cross_entropy(z.float(), y, reduction="none").cpu(), y.cpu()))
    tally.total()
    return Answers(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def contrast(a: nn.Module, b: nn.Module, batches: Iterable[tuple[Inputs, Tensor]]) -> Contrast:
    """Measure two classifiers of the same classes, in eval mode, in one pass over all batches.

    Raises:
        ArchitectureError: the outputs are not logits `(N, classes)` that fit the labels.
        InputError: no samples, or outputs that are not finite.
    """
    first, second = _Tally(), _Tally()
    equal, kl = 0, 0.0
    with evaluating(a, b):
        for x, y in batches:
            za, zb = logits(a, x), logits(b, x)
            first.add(za, y)
            second.add(zb, y)
            equal += int((za.argmax(1) == zb.argmax(1)).sum())
            p, q = za.float().log_softmax(1), zb.float().log_softmax(1)
            kl += float(F.kl_div(q, p, reduction="sum", log_target=True))
    one, other = first.total(), second.total()
    return Contrast(one, other, equal / one.samples, max(0.0, kl / one.samples))


class _Tally:
    """Adds up what batches of logits tell."""

    def __init__(self) -> None:
        self._right, self._loss, self._samples = 0, 0.0, 0

    def add(self, z: Tensor, y: Tensor) -> None:
        if z.shape[1] <= int(y.max()):
            got = tuple(z.shape)
            raise ArchitectureError(f"expected logits (N, classes) with classes > {int(y.max())}, got {got}")
        self._right += int((z.argmax(1) == y).sum())
        self._loss += float(F.cross_entropy(z.float(), y, reduction="sum"))
        self._samples += len(y)

    def total(self) -> Evaluation:
        right, self._loss, samples = ranks.totals(self._right, self._loss, self._samples)
        self._right, self._samples = round(right), round(samples)
        if self._samples == 0:
            raise InputError("expected samples to evaluate on, got an empty split")
        if not math.isfinite(self._loss):
            raise InputError("the network's outputs are not finite on this split; check weights and data for NaN")
        return Evaluation(self._right / self._samples, self._loss / self._samples, self._samples)
