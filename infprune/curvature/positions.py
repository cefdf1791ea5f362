"""Which output positions of a layer stand for all of them in sums over positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """A regular grid of at least `count` output positions per sample, where there are so many; None: all of them.

    Neighbouring positions tell nearly the same, so second moments need few of them (docs/log.md). With steps s_d along
    the axes, sample n (counted from `first`) starts at offset number n mod prod(s_d): every position is seen equally
    often, sums over the grid times `weight` estimate sums over all positions without bias, and how the samples are
    batched changes nothing.
    """

    count: int | None = None
    first: int = 0

    def steps(self, space: Sequence[int]) -> tuple[int, ...]:
        """Distance of two grid points along each axis."""
        steps = [1] * len(space)
        left = torch.Size(space).numel() / self.count if self.count else 1.0
        for rank, d in enumerate(sorted(range(len(space)), key=lambda d: space[d])):  # a longer axis takes what is left
            share = max(left, 1.0) ** (1 / (len(space) - rank))
            steps[d] = max(1, min(space[d], int(share + 1e-9)))
            left /= steps[d]
        return tuple(steps)

    def grid(self, space: Sequence[int]) -> tuple[int, ...]:
        """Points along each axis, at most."""
        return tuple(-(-size // step) for size, step in zip(space, self.steps(space), strict=True))

    def weight(self, space: Sequence[int]) -> int:
        """Positions that one of the grid stands for."""
        return torch.Size(self.steps(space)).numel()

    def parts(self, x: Tensor, axes: Sequence[int]) -> Iterator[Tensor]:
        """Views of `x`, samples first, on the grid along `axes`: one for each offset that occurs."""
        steps = self.steps([x.shape[d] for d in axes])
        offsets = torch.Size(steps).numel()
        for j in range(min(offsets, len(x))):
            rest, at = (self.first + j) % offsets, [slice(None)] * x.dim()
            at[0] = slice(j, None, offsets)
            for d, step in zip(axes, steps, strict=True):
                at[d] = slice(rest % step, None, step)
                rest //= step
            yield x[tuple(at)]


ALL = Positions()
