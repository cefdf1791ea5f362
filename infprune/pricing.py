"""What the next channel of a layer costs: its score, or its share of the loss that was measured."""

from itertools import pairwise

import torch
from torch import Tensor

from infprune.scores.contract import Curve


def prices(ascending: Tensor, curve: Curve | None) -> Tensor:
    """Price of each removal of a layer, in order: the scores themselves, or calibrated on the layer's curve.

    Args:
        ascending: scores `(C,)`, lowest first.
        curve: measured losses, None: not measured.

    Returns:
        `(C,)`, non-decreasing.
    """
    return ascending if curve is None else calibrated(ascending, curve)


def calibrated(ascending: Tensor, curve: Curve) -> Tensor:
    r"""Map scores monotonically to measured loss, so that those of different layers compare.

    The loss of removing the first j channels, L(j), takes the measured values at the measured widths (their running
    maximum) and grows in between as the sum of the scores does. Prices are the slopes of its lower convex hull: where
    the next channels cost less than the last one did, they go together.

    Args:
        ascending: scores `(C,)`, lowest first.
        curve: of a layer of C channels; without a measured width (one channel) its loss is taken as zero.

    Returns:
        `(C,)`, non-decreasing and not negative; unit of the curve. Sums of them are lower bounds of L.
    """
    return _convex(cumulative(ascending, curve)).diff()


def cumulative(ascending: Tensor, curve: Curve) -> Tensor:
    """L(j) for j = 0 ... C, `(C + 1,)`; beyond the narrowest measured width it goes on as between the last two."""
    size = len(ascending)
    knots, losses = [0, *(size - kept for kept in curve.kept)], [0.0]
    for loss in curve.loss:
        losses.append(max(loss, losses[-1]))
    found = torch.zeros(size + 1, dtype=torch.float64)
    weights = ascending.double().clamp_min(0)
    for a, b, low, high in zip(knots, knots[1:], losses, losses[1:], strict=False):
        share = weights[a:b].cumsum(0)
        total = float(share[-1])
        share = share / total if total > 0 else torch.arange(1, b - a + 1, dtype=torch.float64) / (b - a)
        found[a + 1 : b + 1] = low + (high - low) * share
    if len(knots) == 1:  # a single channel, which always stays
        return found
    last = knots[-1]
    slope = (losses[-1] - losses[-2]) / (last - knots[-2])
    found[last + 1 :] = losses[-1] + slope * torch.arange(1, size - last + 1, dtype=torch.float64)
    return found


def _convex(values: Tensor) -> Tensor:
    """The lower convex hull of a sequence, at its indices."""
    corners: list[int] = []
    heights = values.tolist()
    for j, height in enumerate(heights):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (heights[b] - heights[a]) * (j - a) < (height - heights[a]) * (b - a):
                break
            corners.pop()
        corners.append(j)
    hull = torch.zeros_like(values)
    for a, b in pairwise(corners):
        hull[a : b + 1] = torch.linspace(heights[a], heights[b], b - a + 1, dtype=values.dtype)
    return hull
