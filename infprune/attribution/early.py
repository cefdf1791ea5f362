"""Networks early in their training, over several seeds: where EL2N and GraNd look."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from infprune.attribution.contract import Measured, ScoringInputs
from infprune.attribution.packing import packed, unpacked
from infprune.errors import ConfigError
from infprune.training import train


def averaged(inputs: ScoringInputs, of: Callable[[nn.Module], Tensor]) -> Measured:
    """The mean over seeds of a score `(N,)` of the network after the first epochs of the configured training.

    The epochs are the first of the whole schedule, not a schedule of their own. Each seed is kept when it is done.

    Raises:
        ConfigError: more epochs than the training has.
    """
    options, learning = inputs.options, inputs.learning
    whole = learning.recipe.epochs
    if options.epochs > whole:
        raise ConfigError(f"samples.epochs: expected at most train.epochs={whole}, got {options.epochs}")
    recipe = replace(learning.recipe, epochs=options.epochs, total=whole)
    found = []
    for seed in range(inputs.seed, inputs.seed + options.seeds):
        kept = inputs.keep.get(f"seed {seed}")
        if kept is None:
            trained = train(
                learning.fresh(seed),
                inputs.train,
                learning.validation,
                recipe,
                seed=seed,
                augment=learning.augment,
                progress=inputs.progress,
            )
            kept = packed(of(trained.module.eval()).double().cpu())
            inputs.keep.put(f"seed {seed}", kept)
        found.append(unpacked(kept))
    values = torch.stack(found)
    spread = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
    return Measured(
        values.mean(0), details={"spread": spread}, facts={"seeds": options.seeds, "epochs": options.epochs}
    )
