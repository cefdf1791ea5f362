"""Out-of-fold loss: what networks that did not see a sample think of its label; finds labels that are wrong."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from infprune.attribution.contract import Measured, Method, Need, Parts, ScoringInputs, finished
from infprune.attribution.packing import packed, unpacked
from infprune.data.dataset import Part
from infprune.errors import ConfigError
from infprune.forward import logits
from infprune.training import train


def compute(inputs: ScoringInputs) -> Measured:
    r"""Score every sample by the loss of networks trained on the other folds, averaged over `seeds` divisions.

    .. math:: s_n = -\tfrac1R \sum_r \log p_{-k_r(n)}(y_n | x_n)

    LARGER is a label that the rest of the data speaks against: wrong, or of an atypical sample. A network that has
    fitted a wrong label itself cannot say so.

    Raises:
        ConfigError: more folds than samples.
    """
    options = inputs.options
    found = torch.stack([unpacked(text) for text in finished(inputs, parts(inputs))])
    facts = {"folds": options.folds, "divisions": options.seeds}
    return Measured(found.sum(0) / options.seeds, facts=facts)


def parts(inputs: ScoringInputs) -> Parts:
    """One training per fold and division.

    Raises:
        ConfigError: as `compute`.
    """
    count, options = len(inputs.train), inputs.options
    if options.folds > count:
        raise ConfigError(f"samples.folds: expected at most {count}, as many as there are samples, got {options.folds}")
    made = {}
    for repeat in range(options.seeds):
        fold = _folds(count, options.folds, inputs.seed + repeat)
        for k in range(options.folds):
            seed = inputs.seed + repeat * options.folds + k
            made[f"division {repeat} fold {k}"] = partial(_held_out, inputs, fold == k, seed)
    return made


def _folds(count: int, folds: int, seed: int) -> Tensor:
    """The fold of each sample, `(N,)`: at random, sizes differ by at most one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(order).index_copy_(0, order, torch.arange(count) % folds)


def _held_out(inputs: ScoringInputs, held: Tensor, seed: int) -> str:
    """The losses of the samples held out, `(N,)`, zero for those trained on."""
    learning = inputs.learning
    trained = train(
        learning.fresh(seed),
        Part(inputs.train, (~held).nonzero()[:, 0]),
        learning.validation,
        learning.recipe,
        seed=seed,
        augment=learning.augment,
        progress=inputs.progress,
    )
    module, found = trained.module.eval(), []
    with torch.no_grad():
        for x, y in inputs.batches(Part(inputs.train, held.nonzero()[:, 0])):
            found.append(F.cross_entropy(logits(module, x).double(), y, reduction="none").cpu())
    losses = torch.zeros(len(held), dtype=torch.float64)
    losses[held] = torch.cat(found)
    return packed(losses)


OUT_OF_FOLD = Method(
    compute, "nats", "suspect: networks that did not see the sample do not believe its label", Need.TRAINING, parts
)
