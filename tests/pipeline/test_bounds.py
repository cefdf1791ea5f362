"""Bounds: where they stop, where they never do, and what they see."""

import time

import pytest
import torch

from infprune.errors import Stopped
from infprune.pipeline.bounds import EVERY, Bounds, installed, resident
from infprune.units import GIB

LONG = float("inf")


def test_within_the_bounds_nothing_changes():
    with Bounds(LONG, LONG) as bounds:
        x = torch.arange(6.0).reshape(2, 3).softmax(-1)
    assert torch.equal(x, torch.arange(6.0).reshape(2, 3).softmax(-1))
    assert bounds.over is None
    assert 0.05 * GIB < bounds.peak < installed()


def test_the_next_function_of_a_tensor_stops_once():
    x = torch.ones(3)
    bounds = Bounds(0, LONG)
    time.sleep(2 * EVERY)
    with bounds:
        with pytest.raises(Stopped):
            x.add(1)
        assert float(x.add(1).sum()) == 6
    assert bounds.over == "0 s are over"


def test_global_states_are_given_back():
    time_is_over = Bounds(0, LONG)
    time.sleep(2 * EVERY)
    with time_is_over:
        with torch.no_grad():
            torch.zeros(3)
        with pytest.raises(Stopped), torch.no_grad():
            torch.zeros(3).add(1)
    assert torch.is_grad_enabled()


def hoard(held):
    """Hold 8 MiB more and more."""
    for _ in range(200):
        held.append(torch.ones(2**21).add(1))
        time.sleep(EVERY)


def test_memory_is_seen_where_it_is_held():
    held = []
    with pytest.raises(Stopped), Bounds(60, resident() + 2**28) as bounds:
        hoard(held)
    assert len(held) < 100
    assert bounds.peak > bounds.memory
    assert bounds.over == f"{bounds.peak / GIB:.2f} GiB of memory are in use, {bounds.memory / GIB:.2f} are allowed"
