"""From scores and measured losses to prices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from infprune.pricing import calibrated, cumulative, prices
from infprune.scores.contract import Curve


@st.composite
def measured(draw):
    size = draw(st.integers(1, 30))
    kept = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6, unique=True))
    losses = draw(st.lists(st.floats(0, 9), min_size=len(kept), max_size=len(kept)))
    scores = draw(st.lists(st.floats(-1, 9), min_size=size, max_size=size))
    return torch.tensor(sorted(scores), dtype=torch.float64), Curve(tuple(sorted(kept, reverse=True)), tuple(losses))


@settings(max_examples=100, deadline=None)
@given(measured())
def test_prices_are_slopes_of_the_largest_convex_function_below_the_losses(problem):
    scores, curve = problem
    loss, found = cumulative(scores, curve), calibrated(scores, curve)
    assert found.shape == scores.shape
    assert (found >= 0).all()
    assert (found.diff() >= -1e-9).all()
    hull = torch.cat([torch.zeros(1), found.cumsum(0)])
    assert (hull <= loss + 1e-9).all()
    assert_close(hull[-1], loss[-1], rtol=1e-9, atol=1e-9)
    # the largest: no chord between two losses passes below it
    j = torch.arange(len(loss), dtype=torch.float64)
    for a in range(len(loss)):
        for b in range(a + 1, len(loss)):
            chord = loss[a] + (loss[b] - loss[a]) * (j[a : b + 1] - a) / (b - a)
            assert (hull[a : b + 1] <= chord + 1e-9).all()
    on_the_loss = (hull - loss).abs() < 1e-9
    bends = (found.diff() > 1e-6).nonzero()[:, 0] + 1
    assert on_the_loss[bends].all()


@settings(max_examples=100, deadline=None)
@given(measured())
def test_losses_pass_through_what_was_measured(problem):
    scores, curve = problem
    found, highest = cumulative(scores, curve), 0.0
    assert found[0] == 0
    assert (found.diff() >= -1e-12).all()
    for kept, loss in zip(curve.kept, curve.loss, strict=True):
        highest = max(highest, loss)
        assert float(found[len(scores) - kept]) == pytest.approx(highest)


def test_between_two_widths_losses_grow_as_the_scores_do():
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0])
    found = cumulative(scores, Curve((3, 1), (8.0, 12.0)))
    assert found.tolist() == [0, 2, 8, 10, 12, 14]  # and beyond the last width as between the last two
    assert prices(scores, None) is scores
    assert calibrated(scores[:1], Curve((), ())).tolist() == [0]


def test_scores_without_size_share_alike():
    assert cumulative(torch.zeros(4), Curve((0,), (2.0,))).tolist() == [0, 0.5, 1, 1.5, 2]
