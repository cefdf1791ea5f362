"""How well predicted values agree with actual ones."""

import math

import torch
from torch import Tensor

from infprune.pipeline.influence_results import Agreement


def agreement(predicted: Tensor, actual: Tensor) -> Agreement:
    """Pearson's r and the least-squares slope of predicted over actual; undefined for fewer than two values."""
    if len(actual) < 2:
        return Agreement(None, None)
    p, a = _centred(predicted), _centred(actual)
    spread, size = float(a.square().sum()), float(p.square().sum())
    if spread == 0:
        return Agreement(None, None)
    covariance = float(p @ a)
    return Agreement(covariance / math.sqrt(spread * size) if size > 0 else None, covariance / spread)


def _centred(values: Tensor) -> Tensor:
    """Values less their mean: zero if all are the same, although their mean may be rounded."""
    return torch.zeros_like(values) if bool((values == values[0]).all()) else values - values.mean()
