"""Every weight that stays, fitted to the logits of the dense network, not to labels."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infprune.data.augment import none
from infprune.data.dataset import Samples
from infprune.data.loaders import Batches
from infprune.errors import InputError
from infprune.evaluation import evaluate
from infprune.forward import Inputs, logits, tensors
from infprune.modes import evaluating
from infprune.progress import Bar, Progress
from infprune.training import Plugin, Recipe, train

BATCH = 64
LEAST = 512  # samples: of fewer, all weights learn too little that holds for others
REMEMBERED = 2**24  # numbers of the dense network's logits that are kept for the next attempt: 64 MiB in float32


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


@dataclass(frozen=True)
class Attempt:
    """`lr`: highest rate of Adam. `statistics`: batch norms take and remember those of the batch, else keep theirs."""

    lr: float
    statistics: bool


ATTEMPTS = (Attempt(2e-3, statistics=True), Attempt(5e-4, statistics=False))
LAST = Attempt(5e-5, statistics=False)  # where none of these helps


def distill(
    dense: nn.Module,
    small: nn.Module,
    samples: Samples,
    validation: Batches,
    how: Distillation,
    *,
    seed: int,
    auxiliary: Sequence[nn.Module],
    progress: Progress,
) -> nn.Module:
    r"""Minimise the distance of the logits over all weights of a copy of `small`.

    .. math:: \frac{1}{N K} \sum_n \| P (z_\theta(x_n) - z_\text{dense}(x_n)) \|^2, \quad P = I - 1 1^T / K

    by Adam with a rate that falls as half a cosine: distillation (Hinton et al., 2015) with the squared error of the
    logits, from the calibration samples alone; their labels are ignored. Deep cuts want new statistics of batch norms
    and a high rate, mild ones neither: both are attempted, and the network of the highest validation accuracy is
    returned. Everything else (dropout) is as in evaluation.

    Args:
        dense: the network that is followed, in any mode.
        small: after the cut and its compensation; unchanged.
        samples: what both networks see; fewer than `LEAST` change nothing.
        validation: decides between the attempts and no change.
        how: epochs, batches, augmentation.
        seed: of the order and the augmentation.
        auxiliary: modules of `small` that eval mode does not call.
        progress: told every step.

    Returns:
        A network in the modes of `small`: `small` itself where there is nothing to fit or no attempt helps.
    """
    batch_size = min(how.batch_size, BATCH)
    trainable = any(p.requires_grad for p in small.parameters())
    if not how.epochs or batch_size < 2 or len(samples) < LEAST or not trainable:
        return small
    best, quality = small, _quality(small, validation)
    followed = _Followed(dense)
    for attempt in (*ATTEMPTS, LAST):
        if attempt is LAST and best is not small:
            break
        student = copy.deepcopy(small)
        again = dict(zip(small.modules(), student.modules(), strict=True))
        recipe = Recipe(
            how.epochs, "adamw", attempt.lr, weight_decay=0.0, batch_size=batch_size, precision=how.precision
        )
        try:
            with evaluating(student):
                train(
                    student,
                    samples,
                    validation[:1],
                    recipe,
                    seed=seed,
                    augment=how.augment,
                    auxiliary=[again[m] for m in auxiliary],
                    plugin=_Following(followed.again(), attempt),
                    progress=_Named(progress),
                )
            found = _quality(student, validation)
        except InputError:  # not finite, on all ranks alike: the rate is too high
            continue
        if found > quality:
            best, quality = student, found
    return best


def _quality(module: nn.Module, validation: Batches) -> tuple[float, float]:
    """Accuracy, then the loss: this alone would refuse a network that follows an overconfident one."""
    found = evaluate(module, validation)
    return found.accuracy, -found.loss


class _Followed:
    """The dense network's logits. Attempts see the same batches in the same order: later ones are told the first's."""

    def __init__(self, dense: nn.Module) -> None:
        self._dense = dense
        self._told: list[tuple[Tensor, Tensor]] = []
        self._next = 0

    def again(self) -> "_Followed":
        """From the first batch on."""
        self._next = 0
        return self

    @torch.no_grad()
    def logits(self, x: Inputs) -> Tensor:
        """Of the next batch; remembered ones only if its inputs have the same sums as they had then."""
        mark = torch.stack([t.sum(dtype=torch.float64) for t in tensors(x)])
        step, self._next = self._next, self._next + 1
        if step < len(self._told) and torch.equal(self._told[step][0], mark):
            return self._told[step][1]
        with evaluating(self._dense):
            found = logits(self._dense, x)
        if step == len(self._told) and sum(z.numel() for _, z in self._told) + found.numel() <= REMEMBERED:
            self._told.append((mark, found))
        return found


class _Following(Plugin):
    """The loss is the distance to the dense network's logits; but for batch norms, all is as in evaluation."""

    def __init__(self, followed: "_Followed", attempt: Attempt) -> None:
        self._followed = followed
        self._statistics = attempt.statistics
        self._wanted = torch.empty(0)

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        module.eval()
        for m in module.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the base of all
                m.train(self._statistics)
        self._wanted = self._followed.logits(x)
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
