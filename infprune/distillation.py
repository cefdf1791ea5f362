"""Every weight that stays, fitted to the logits of the dense network; no labels are read."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.data.augment import none
from infprune.data.dataset import ArrayDataset, Samples
from infprune.data.loaders import Batches, batches
from infprune.forward import Inputs, logits
from infprune.modes import evaluating
from infprune.progress import Bar, Progress
from infprune.sensitivity import distance
from infprune.training import Plugin, Recipe, train

RATES = (2e-3, 2e-4)  # of Adam, largest first: the next is tried where one brings the logits no closer
BATCH = 64


@dataclass(frozen=True)
class Distillation:
    """How logits are fitted.

    `epochs`: passes over the samples. `batch_size`: at most `BATCH`. `augment`: changes a batch of inputs, for both
    networks alike. `precision`: float32 or bf16.
    """

    epochs: int
    batch_size: int = BATCH
    augment: Callable[..., Inputs] = none
    precision: str = "float32"


def distill(
    dense: nn.Module,
    small: nn.Module,
    samples: Samples,
    held_out: Inputs,
    how: Distillation,
    *,
    seed: int,
    auxiliary: Sequence[nn.Module],
    progress: Progress,
) -> nn.Module:
    r"""Minimise the distance of the logits over all weights of a copy of `small`.

    .. math:: \frac{1}{N K} \sum_n \| P (z_\theta(x_n) - z_\text{dense}(x_n)) \|^2, \quad P = I - 1 1^T / K

    by Adam with a rate that falls as half a cosine: distillation (Hinton et al., 2015) with the squared error of the
    logits, from the calibration samples alone. Batch norms take the statistics of the batch and remember them, as in
    training; everything else (dropout) is as in evaluation. The outcome is kept only if it is closer to the dense
    network on `held_out`; where the first rate brings it no closer, a smaller one is tried.

    Args:
        dense: the network that is followed, in any mode.
        small: after the cut and its compensation; unchanged.
        samples: what both networks see; labels are ignored.
        held_out: inputs on the networks' device that decide.
        how: epochs, batches, augmentation.
        seed: of the order and the augmentation.
        auxiliary: modules of `small` that eval mode does not call.
        progress: told every step.

    Returns:
        A network in the modes of `small`: `small` itself where there is nothing to fit or no rate helps.
    """
    batch_size = min(how.batch_size, BATCH)
    if not how.epochs or min(batch_size, len(samples)) < 2 or not any(p.requires_grad for p in small.parameters()):
        return small
    before = _agreed(dense, small, held_out)
    for lr in RATES:
        recipe = Recipe(
            how.epochs, "adamw", lr, weight_decay=0.0, batch_size=batch_size, precision=how.precision, augment="none"
        )
        student = copy.deepcopy(small)
        again = dict(zip(small.modules(), student.modules(), strict=True))
        with evaluating(student):
            train(
                student,
                samples,
                _answered(dense, held_out),
                recipe,
                seed=seed,
                augment=how.augment,
                auxiliary=[again[m] for m in auxiliary],
                plugin=_Following(dense),
                progress=_Named(progress),
            )
        if _agreed(dense, student, held_out) < before:
            return student
    return small


def _agreed(dense: nn.Module, other: nn.Module, held_out: Inputs) -> float:
    """The distance, the first rank's for all."""
    return ranks.once(lambda: [distance(dense, other, held_out)], 1)[0]


@torch.no_grad()
def _answered(dense: nn.Module, x: Inputs) -> Batches:
    """The samples with what the dense network says to them, so that accuracy is agreement."""
    with evaluating(dense):
        y = logits(dense, x).argmax(1)
    return batches(ArrayDataset(x, y), BATCH, device=y.device)


class _Following(Plugin):
    """Batch norms as in training, all else as in evaluation; the loss is the distance to the dense network's logits."""

    def __init__(self, dense: nn.Module) -> None:
        self._dense = dense
        self._wanted = torch.empty(0)

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        module.eval()
        for m in module.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the base of all
                m.train()
        with torch.no_grad(), evaluating(self._dense):
            self._wanted = logits(self._dense, x)
        return logits(module, x)

    def loss(self, z: Tensor, y: Tensor, smoothing: float) -> Tensor:
        del y, smoothing
        gap = z.float() - self._wanted.float()
        return (gap - gap.mean(1, keepdim=True)).square().mean()


class _Named(Progress):
    """Says distill where the training loop says epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def bar(self, description: str, total: int) -> AbstractContextManager[Bar]:
        return self._progress.bar(description.replace("epoch", "distill"), total)
