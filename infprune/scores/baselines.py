"""Scores that look at no data: magnitude, batch-norm scale, random."""

import torch
from torch import Tensor, nn

from infprune.coupling.groups import Role
from infprune.curvature.products import by_channel, filters
from infprune.errors import ConfigError
from infprune.scores.contract import Criterion, ScoringInputs


def _magnitude(inputs: ScoringInputs) -> dict[str, Tensor]:
    """L1 norm of a channel's filters (Li et al. 2017), divided by its layer's mean so that layers compare."""
    tensors = dict(inputs.module.named_parameters())
    scores = {}
    for layer in inputs.layers:
        norms = [by_channel(tensors[s.tensor].detach().abs(), s) for s in filters(layer)]
        total = torch.stack(norms).sum(0)
        scores[layer.name] = total / total.mean().clamp_min(torch.finfo(total.dtype).tiny)
    return scores


def _bn_scale(inputs: ScoringInputs) -> dict[str, Tensor]:
    """|gamma| of the batch norms a channel passes (Liu et al. 2017), summed."""
    scales = {
        f"{name}.weight": m.weight.detach().abs()
        for name, m in inputs.module.named_modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.weight is not None  # noqa: SLF001 - base of batch norms
    }
    scores = {}
    for layer in inputs.layers:
        found = [scales[s.tensor][s.index].sum(-1) for s in layer.having(Role.THROUGH) if s.tensor in scales]
        if not found:
            raise ConfigError(
                f"bn-scale: expected a batch norm behind every prunable layer, {layer.name} has none; "
                "choose another criterion or add it to prune.protect"
            )
        scores[layer.name] = torch.stack(found).sum(0)
    return scores


def _random(inputs: ScoringInputs) -> dict[str, Tensor]:
    """Uniform in (0, 1), from the seed."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return {layer.name: torch.rand(layer.size, generator=generator) for layer in inputs.layers}


MAGNITUDE = Criterion(_magnitude, unit="share of the layer's mean L1 norm")
BN_SCALE = Criterion(_bn_scale, unit="batch-norm scale")
RANDOM = Criterion(_random, unit="uniform")
