"""Networks early in their training, over several seeds: where EL2N and GraNd look."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from infprune.attribution.contract import Measured, Parts, ScoringInputs, finished
from infprune.attribution.packing import packed, unpacked
from infprune.errors import ConfigError
from infprune.training import train

Of = Callable[[ScoringInputs, nn.Module], Tensor]
"""A score `(N,)` of a network, of all samples to score."""


def averaged(inputs: ScoringInputs, of: Of) -> Measured:
    """The mean over seeds of a score `(N,)` of the network after the first epochs of the configured training.

    The epochs are the first of the whole schedule, not a schedule of their own.

    Raises:
        ConfigError: more epochs than the training has.
    """
    options = inputs.options
    values = torch.stack([unpacked(text) for text in finished(inputs, seeds(inputs, of))])
    spread = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
    return Measured(
        values.mean(0), details={"spread": spread}, facts={"seeds": options.seeds, "epochs": options.epochs}
    )


def seeds(inputs: ScoringInputs, of: Of) -> Parts:
    """One training per seed.

    Raises:
        ConfigError: more epochs than the training has.
    """
    options, whole = inputs.options, inputs.learning.recipe.epochs
    if options.epochs > whole:
        raise ConfigError(f"samples.epochs: expected at most train.epochs={whole}, got {options.epochs}")
    return {f"seed {s}": partial(_one, inputs, of, s) for s in range(inputs.seed, inputs.seed + options.seeds)}


def _one(inputs: ScoringInputs, of: Of, seed: int) -> str:
    learning = inputs.learning
    trained = train(
        learning.fresh(seed),
        inputs.train,
        learning.validation,
        replace(learning.recipe, epochs=inputs.options.epochs, total=learning.recipe.epochs),
        seed=seed,
        augment=learning.augment,
        progress=inputs.progress,
    )
    return packed(of(inputs, trained.module.eval()).double().cpu())
