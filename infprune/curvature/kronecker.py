"""Kronecker factors of the Fisher of one weight: H = G (x) A."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.curvature.gram import Gram, add_product, gram_of, mirrored
from infprune.curvature.patches import matrix, outputs
from infprune.curvature.positions import Positions
from infprune.curvature.sweep import LabelSource, Observer


@dataclass(frozen=True)
class InputMoment:
    """A = E_n sum_p a_np a_np^T as it was summed: a wide one is put together where it is needed, and then dropped."""

    sums: Gram
    samples: float

    def dense(self) -> Tensor:
        """A new tensor `(G, D, D)` in the widest type of the device."""
        return self.sums.total(wide(self.sums.device)).div_(self.samples)


@dataclass(frozen=True)
class KroneckerFactors:
    r"""The factors of one convolution or linear weight, per group `g`.

    A = E_n sum_p a_np a_np^T, shape `(G, D, D)`, with `a` an im2col column and a last 1 for the bias;
    G = E_{n,p} g_np g_np^T, shape `(G, O/G, O/G)`, with `g` the gradient of one sample's loss at one output position,
    its label drawn from the model, or summed over the columns of the root of the loss's curvature. The block of Fisher
    or GGN of the mean loss is approximated by `G (x) A`
    (Grosse and Martens 2016, eq. 30 and 31; exact for one position and a linear network). Both are summed in the type
    of the network; whoever inverts them does so in `wide`.
    """

    inputs: InputMoment
    gradients: Tensor


class MomentsObserver(Observer):
    """Collects A of the named modules, on `positions` output positions per sample (None: on all); needs no gradient.

    `first`: samples that lower ranks see.
    """

    def __init__(self, names: Collection[str], positions: int | None = None, first: int = 0) -> None:
        self._names = names
        self._positions = positions
        self._seen = defaultdict[nn.Module, int](lambda: first)
        self.at: dict[str, Positions] = {}  # those of the last call
        self._sums: dict[str, Gram] = {}
        self._samples = 0

    def forward(self, name: str, module: Any, x: Tensor) -> None:
        """Add A of one batch."""
        if name not in self._names:
            return
        at = self.at[name] = Positions(self._positions, self._seen[module])
        if name not in self._sums:
            self._sums[name] = gram_of(module, x, at)
        self._sums[name].add(x, at)
        self._seen[module] += len(x)

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        """Count the samples."""
        del gradients
        self._samples += samples

    def result(self, draws: int = 1) -> dict[str, InputMoment]:
        """The means, by module name; `draws`: how often each batch was ended."""
        samples = ranks.totals(self._samples // draws)[0]
        for sums in self._sums.values():
            sums.reduce()
        return {name: InputMoment(sums, samples) for name, sums in self._sums.items()}


class KroneckerObserver(Observer):
    """Collects both factors of the named modules; A as `MomentsObserver` does, G on the same positions."""

    def __init__(
        self,
        names: Collection[str],
        positions: int | None = None,
        labels: LabelSource = LabelSource.MODEL,
        first: int = 0,
    ) -> None:
        self.labels = labels
        self._names = names
        self._moments = MomentsObserver(names, positions, first)
        self._gradients: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}

    def forward(self, name: str, module: Any, x: Tensor) -> None:
        """Add A of one batch."""
        if name not in self._names:
            return
        self._moments.forward(name, module, x)
        if name not in self._gradients:  # stays zero if the loss does not depend on this module
            groups, size, _ = matrix(module).shape
            self._gradients[name] = x.new_zeros(groups, size, size)
            self._rows[name] = 0

    def output_gradient(self, name: str, module: nn.Module, y: Tensor | None, gradient: Tensor) -> None:
        """Add G of one batch."""
        del y
        if name not in self._names:
            return
        rows = outputs(module, gradient, self._moments.at[name])
        for group, total in zip(rows, self._gradients[name], strict=True):
            add_product(total, group)
        self._rows[name] += gradient.numel() // matrix(module).shape[:2].numel()

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        """Count the samples."""
        self._moments.batch(samples, gradients)

    def _positions_seen(self, name: str) -> float:
        return max(ranks.totals(self._rows[name])[0], 1.0)

    def result(self, draws: int) -> dict[str, KroneckerFactors]:
        """The means, by module name; `draws`: backward passes per batch, over which exact labels are summed."""
        summed = draws if self.labels is LabelSource.EXACT else 1
        return {
            name: KroneckerFactors(
                inputs, mirrored(ranks.total(self._gradients[name])).mul_(summed / self._positions_seen(name))
            )
            for name, inputs in self._moments.result(draws).items()
        }


def wide(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
