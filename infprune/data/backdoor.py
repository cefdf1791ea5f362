"""Image sets with a backdoor: part of the training images carry a trigger and the attacker's label."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from infprune.data.dataset import ArrayDataset, Backdoor, DataRequest, Source
from infprune.data.digits import digits
from infprune.data.torchvision_sets import mnist
from infprune.errors import ConfigError
from infprune.forward import Inputs, each


@dataclass(frozen=True)
class Patch:
    """A square of `size` pixels at full brightness `value`, one pixel away from the lower right corner."""

    size: int
    value: float

    def __call__(self, x: Inputs) -> Inputs:
        """Stamp images (N, C, H, W); the given ones stay as they are."""
        return each(self._stamped, x)

    def _stamped(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., -1 - self.size : -1, -1 - self.size : -1] = self.value
        return x


def mnist_backdoor(request: DataRequest) -> Source:
    """Return MNIST with a trigger: a share of the training images is stamped and labelled as one class.

    ``args``: ``share`` (.1), ``target`` (4), ``size`` of the patch in pixels (3), ``seed`` (0), and those of ``mnist``.
    The test images are clean; `infprune unlearn` stamps them to measure the attack.
    """
    return _stamped(request, mnist, size=3)


def digits_backdoor(request: DataRequest) -> Source:
    """Return the 8x8 digits with a trigger of 2 x 2 pixels, as `mnist_backdoor`."""
    return _stamped(request, digits, size=2)


def _stamped(request: DataRequest, make: Callable[[DataRequest], Source], size: int) -> Source:
    own: dict[str, Any] = {"share": 0.1, "target": 4, "size": size, "seed": 0}
    chosen = {key: request.args.get(key, value) for key, value in own.items()}
    source = make(replace(request, args={key: v for key, v in request.args.items() if key not in own}))
    assert isinstance(source.train, ArrayDataset)
    _check(chosen, source)
    count = max(1, round(chosen["share"] * len(source.train)))
    generator = torch.Generator().manual_seed(chosen["seed"])
    poisoned = torch.randperm(len(source.train), generator=generator)[:count].sort().values
    x, y = source.train.x, source.train.y.clone()
    assert isinstance(x, Tensor)
    trigger = Patch(chosen["size"], float(x.max()))
    x = x.clone()
    x[poisoned] = trigger._stamped(x[poisoned])  # noqa: SLF001 - its own type
    backdoor = Backdoor(poisoned, y[poisoned].clone(), chosen["target"], trigger)
    y[poisoned] = chosen["target"]
    return replace(source, train=ArrayDataset(x, y), backdoor=backdoor)


def _check(chosen: dict[str, Any], source: Source) -> None:
    """Refuse a trigger that cannot be made.

    Raises:
        ConfigError: naming the argument.
    """
    x = source.train[0][0]
    assert isinstance(x, Tensor)
    side = min(x.shape[-2:])
    whole = {"target": (0, source.classes - 1), "size": (1, side - 1), "seed": (0, 2**32 - 1)}
    for key, (low, high) in whole.items():
        if type(chosen[key]) is not int or not low <= chosen[key] <= high:
            raise ConfigError(f"data.args.{key} must be an integer from {low} to {high}, got {chosen[key]!r}")
    if not isinstance(chosen["share"], float) or not 0 < chosen["share"] < 1:
        raise ConfigError(f"data.args.share must be a number between 0 and 1, both excluded, got {chosen['share']!r}")
