"""Which parameters two stages have in common, and which of them the second one moved."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError


@dataclass(frozen=True)
class Sharing:
    """The shared parameters W of two spaces, and the split of the second one's, by name.

    `shared`: in both stages. `free`: of the second stage, what fine-tuning moved; `held`: what it did not. In case 1
    the free ones are Theta and the held ones W; in case 2 all are free.
    """

    pretrain: ParameterSpace
    finetune: ParameterSpace
    shared: tuple[str, ...]
    free: tuple[str, ...]

    @property
    def held(self) -> tuple[str, ...]:
        """What fine-tuning left alone."""
        free = set(self.free)
        return tuple(name for name in self.finetune.names if name not in free)

    @property
    def moved(self) -> tuple[str, ...]:
        """What fine-tuning began with and moved."""
        free = set(self.free)
        return tuple(name for name in self.shared if name in free)

    def origin(self) -> Tensor:
        """Positions of the shared ones in the first stage's theta."""
        return positions(self.pretrain, self.shared)

    def there(self, names: Collection[str]) -> Tensor:
        """Positions of some in the second stage's theta."""
        return positions(self.finetune, names)


def sharing(pretrain: ParameterSpace, finetune: ParameterSpace, own: Collection[str], held: Collection[str]) -> Sharing:
    """Relate two stages; `own`: parameters that each stage has of its own, `held`: those that the second leaves alone.

    Raises:
        ConfigError: nothing is shared, nothing is trained, or a shared parameter has two shapes.
    """
    first = dict(zip(pretrain.names, pretrain.shapes, strict=True))
    second = dict(zip(finetune.names, finetune.shapes, strict=True))
    shared = tuple(name for name in finetune.names if name in first and name not in own)
    for name in shared:
        if first[name] != second[name]:
            raise ConfigError(f"{name} is {tuple(first[name])} in one stage and {tuple(second[name])} in the other")
    if not shared:
        raise ConfigError("the stages share no parameter: every layer belongs to the head; name fewer in trace.head")
    free = tuple(name for name in finetune.names if name not in held)
    if not free:
        raise ConfigError("fine-tuning has nothing to train: every layer is frozen; name fewer in trace.frozen")
    if stray := [name for name in finetune.names if name not in shared and name in held]:
        raise ConfigError(
            f"{stray[0]} is new in the second stage and cannot be frozen; take its layer out of trace.frozen"
        )
    return Sharing(pretrain, finetune, shared, free)


def positions(space: ParameterSpace, names: Collection[str]) -> Tensor:
    """Where some parameters stand in theta, in the order of the names."""
    found = [space.at(name) for name in names]
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)
