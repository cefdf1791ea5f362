"""Memorisation: what the network only gets right because it was trained on that very sample (Feldman 2020)."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.attribution.contract import Measured, Method, Need, Parts, ScoringInputs, finished
from infprune.attribution.packing import packed, unpacked
from infprune.data.dataset import Part
from infprune.errors import ConfigError
from infprune.forward import logits
from infprune.training import train


def compute(inputs: ScoringInputs) -> Measured:
    r"""Train on random subsets S, and score every sample by what being in them did for it.

    .. math:: s_n = P_{S \ni n}(f_S(x_n) = y_n) - P_{S \not\ni n}(f_S(x_n) = y_n)

    Feldman and Zhang (2020), eq. 1 and section 2.1. Between -1 and 1; LARGER is more memorised. Each sample is in
    exactly round(share x T) of the T subsets, chosen at random, so that every score has the same number of trainings on
    either side; the subsets' sizes then differ a little. `details`: accuracy and loss with and without the sample;
    `facts["standard_error"]`: root mean square of the scores' standard errors.

    Raises:
        ConfigError: too few subsets, or a share that leaves none with or none without a sample.
    """
    inside = membership(len(inputs.train), inputs.options.subsets, inputs.options.share, inputs.seed)
    found = torch.stack([unpacked(text).reshape(2, -1) for text in finished(inputs, parts(inputs))])
    return estimated(inside, found[:, 0], found[:, 1])


def parts(inputs: ScoringInputs) -> Parts:
    """One training per subset.

    Raises:
        ConfigError: as `membership`.
    """
    inside = membership(len(inputs.train), inputs.options.subsets, inputs.options.share, inputs.seed)
    return {f"subset {k}": partial(_one, inputs, member, inputs.seed + k) for k, member in enumerate(inside)}


def membership(samples: int, subsets: int, share: float, seed: int) -> Tensor:
    """Which of the T subsets holds which sample, `(T, N)` bool: round(share x T) of them, the same for every sample.

    Raises:
        ConfigError: that is none or all of them.
    """
    count = round(share * subsets)
    if not 0 < count < subsets:
        raise ConfigError(
            f"samples.share: {share:g} of samples.subsets={subsets} puts each sample in {count} of them, expected "
            f"1 to {subsets - 1}; raise samples.subsets or choose another share"
        )
    order = torch.rand(subsets, samples, generator=torch.Generator().manual_seed(seed)).argsort(0)
    return order < count


def _one(inputs: ScoringInputs, member: Tensor, seed: int) -> str:
    """Train on one subset; whether each sample is right (0 or 1), then its loss."""
    learning = inputs.learning
    chosen = Part(inputs.train, member.nonzero()[:, 0])
    trained = train(
        learning.fresh(seed),
        chosen,
        learning.validation,
        learning.recipe,
        seed=seed,
        augment=learning.augment,
        progress=inputs.progress,
    )
    return packed(_judged(inputs, trained.module.eval()))


@torch.no_grad()
def _judged(inputs: ScoringInputs, module: nn.Module) -> Tensor:
    right, loss = [], []
    for x, y in inputs.batches(inputs.train):
        z = logits(module, x).double()
        right.append((z.argmax(1) == y).double().cpu())
        loss.append(F.cross_entropy(z, y, reduction="none").cpu())
    return torch.cat(right + loss)


def estimated(inside: Tensor, right: Tensor, loss: Tensor) -> Measured:
    """Means with and without each sample, from what T networks made of it, all `(T, N)`."""
    members, others = inside.double(), (~inside).double()
    n, m = members.sum(0), others.sum(0)
    with_, without = (right * members).sum(0) / n, (right * others).sum(0) / m
    variance = with_ * (1 - with_) / n + without * (1 - without) / m
    details = {
        "accuracy_with": with_,
        "accuracy_without": without,
        "loss_with": (loss * members).sum(0) / n,
        "loss_without": (loss * others).sum(0) / m,
    }
    facts = {
        "subsets": len(inside),
        "with": int(n[0]),
        "without": int(m[0]),
        "standard_error": float(variance.mean().sqrt()),
    }
    return Measured(with_ - without, details=details, facts=facts)


MEMORISATION = Method(
    compute, "accuracy", "memorised: the network is right about it only when trained on it", Need.TRAINING, parts
)
