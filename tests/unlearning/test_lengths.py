"""Which step lengths are tried, on scores that are formulas."""

import math

import pytest

from infprune.unlearning.lengths import FURTHER, searched

GRID = [1.0, 0.25, 0.5, 1.0]


def parabola(top):
    return lambda length: -abs(math.log2(length / top))


@pytest.mark.parametrize(
    ("top", "tried"),
    [
        (0.5, [0.25, 0.5, 1]),
        (4, [0.25, 0.5, 1, 2, 4, 8]),
        (1 / 16, [1 / 32, 1 / 16, 1 / 8, 0.25, 0.5, 1]),
        (2**40, [0.25, 0.5, *(2**n for n in range(FURTHER + 1))]),
    ],
)
def test_beyond_an_end_while_it_is_the_best(top, tried):
    found = searched(parabola(top), GRID, -100)
    assert list(found) == tried
    assert found == {length: parabola(top)(length) for length in tried}


def test_an_end_that_is_no_better_than_staying_or_than_another_leads_nowhere():
    assert max(searched(parabola(4), GRID, -1)) == 1
    assert list(searched(lambda _: 1.0, GRID, 0)) == [0.25, 0.5, 1]


def test_shorter_ones_where_none_is_better_than_staying():
    found = searched(lambda length: length * (2**-6 - length), GRID, 0)  # better than 0 below 2^-6, best at 2^-7
    assert list(found) == [*(2.0**-n for n in range(8, 2, -1)), 0.25, 0.5, 1]
    assert max(found, key=found.get) == 2**-7
    assert min(searched(lambda length: -length, GRID, 0)) == 0.25 / 2**FURTHER


def test_a_single_length_may_go_either_way():
    assert list(searched(parabola(2), [1.0], -9)) == [1, 2, 4]
    assert list(searched(parabola(0.5), [1.0], -9)) == [0.25, 0.5, 1, 2]


def test_where_outputs_overflow_nothing_longer_is_asked():
    asked = []

    def score(length):
        asked.append(length)
        return None if length > 0.3 else -length

    assert max(searched(score, GRID, -0.1)) == 0.25
    assert asked[:2] == [0.25, 0.5] == sorted(asked)[-2:]
    asked.clear()
    assert min(searched(score, GRID, -9)) == 0.25 / 2**FURTHER
    assert searched(lambda _: None, GRID, 0) == {}
