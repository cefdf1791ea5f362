"""Axes: round ticks that lie on the axis, and values in their place."""

import pytest

from infprune.report.axes import fitted


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 96], ["0", "20", "40", "60", "80", "100"]),
        ([0.12, 0.31], ["0.10", "0.15", "0.20", "0.25", "0.30", "0.35"]),
        ([-3, 4], ["-4", "-2", "0", "2", "4"]),
        ([5, 5], ["2", "4", "6", "8"]),
    ],
)
def test_linear_ticks_are_round_and_hold_the_values(values, texts):
    axis = fitted(values, 0, 100)
    assert [text for _, text in axis.ticks()] == texts
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis.at(axis.low) == 0
    assert axis.at((axis.low + axis.high) / 2) == pytest.approx(50)


def test_logarithmic_ticks_are_powers():
    axis = fitted([1e-5, 1e-1], 0, 100, log=True)
    assert [text for _, text in axis.ticks()] == ["1e-5", "1e-4", "1e-3", "0.01", "0.1"]
    assert axis.at(1e-3) == pytest.approx(50)
    assert axis.at(0) == 0


def test_few_decades_have_ticks_between_powers():
    assert [text for _, text in fitted([2, 40], 0, 1, log=True).ticks()] == ["2", "5", "10", "20"]


def test_negative_or_close_values_are_linear():
    assert not fitted([-1, 100], 0, 1, log=True).log
    assert not fitted([1, 9], 0, 1, log=True).log


def test_what_is_far_below_the_largest_lies_on_the_edge():
    axis = fitted([0.0, 1e-30, 1.0], 10, 20, log=True)
    assert axis.low > 1e-7
    assert axis.at(1e-30) == 10


def test_an_axis_may_run_backwards():
    axis = fitted([0, 100], 100, 0)
    assert axis.at(25) == 75
