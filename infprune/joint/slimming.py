"""Network slimming (Liu et al. 2017): an L1 penalty on batch-norm scales, so that few of them stay large."""

from collections.abc import Sequence

import torch
from torch import nn

from infprune.coupling.groups import ChannelLayer, Role
from infprune.training import Plugin


class Slimming(Plugin):
    """Adds `strength` x sign(gamma) to the gradients of the batch-norm scales that prunable channels pass."""

    def __init__(self, module: nn.Module, layers: Sequence[ChannelLayer], strength: float) -> None:
        norms = {
            f"{name}.weight"
            for name, m in module.named_modules()
            if isinstance(m, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - base of batch norms
        }
        passed = {s.tensor for layer in layers for s in layer.having(Role.THROUGH)}
        self._names = sorted(norms & passed)
        self._strength = strength

    @torch.no_grad()
    def observe(self, module: nn.Module) -> None:
        """Add the slope of the penalty."""
        named = dict(module.named_parameters())
        for name in self._names:
            scale = named[name]
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=self._strength)
