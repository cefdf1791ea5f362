"""Pearson's r and the slope, against the standard library."""

import statistics

import pytest
import torch

from infprune.pipeline.agreement import agreement


def test_it_is_the_correlation_and_the_slope():
    actual = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    predicted = 3 - 0.5 * actual + 0.1 * actual**2
    found = agreement(predicted, actual)
    assert found.r == pytest.approx(statistics.correlation(predicted.tolist(), actual.tolist()), rel=1e-12)
    slope = statistics.linear_regression(actual.tolist(), predicted.tolist()).slope
    assert found.slope == pytest.approx(slope, rel=1e-12)


def test_without_spread_there_is_no_correlation():
    """The mean of three times 0.1 is not 0.1."""
    same, rising = torch.full((3,), 0.1, dtype=torch.float64), torch.arange(3.0, dtype=torch.float64)
    assert (same - same.mean()).any()
    assert agreement(same, rising).r is None
    assert agreement(same, rising).slope == 0
    assert (agreement(rising, same).r, agreement(rising, same).slope) == (None, None)
    assert agreement(rising[:1], rising[:1]).r is None
