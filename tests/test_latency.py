"""Dense against pruned on a clock that the test winds."""

import pytest
import torch
from torch import nn

from infprune.latency import Comparison, Quartiles, by_module, compare


class Ticking(nn.Module):
    """Takes as long as it is told, on a clock of the test."""

    def __init__(self, clock, seconds, log):
        super().__init__()
        self.clock, self.seconds, self.log = clock, seconds, log

    def forward(self, x):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.log.append(self)
        self.clock[0] += next(self.seconds)
        return x


@pytest.fixture
def timed(monkeypatch):
    """Compare two lists of seconds, one per round; the warm-up passes take a day."""
    clock, log = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def run(dense, pruned):
        both = [Ticking(clock, iter([86400.0] * 3 + seconds), log) for seconds in (dense, pruned)]
        found = compare(*both, torch.zeros(1), range(len(dense)))
        assert all(network.training for network in both)
        return found, [both.index(network) for network in log]

    return run


def test_median_and_quartiles_in_milliseconds(timed):
    found, _ = timed([0.001, 0.002, 0.003, 0.004, 0.005], [0.002, 0.002, 0.003, 0.002, 0.010])
    assert found.n == 5
    assert vars(found.dense) == pytest.approx({"median": 3.0, "low": 2.0, "high": 4.0})
    assert vars(found.pruned) == pytest.approx({"median": 2.0, "low": 2.0, "high": 3.0})
    # round by round: 2, 1, 1, 0.5, 2
    assert vars(found.ratio) == pytest.approx({"median": 1.0, "low": 1.0, "high": 2.0})


def test_each_network_goes_first_every_other_time(timed):
    _, order = timed([1.0] * 4, [1.0] * 4)
    assert order[6:] == [0, 1, 1, 0, 0, 1, 1, 0]


def test_drift_that_hits_both_alike_does_not_hide_a_difference(timed):
    slow = [1.0 * 1.5**i for i in range(9)]
    found, _ = timed(slow, [0.9 * s for s in slow])
    assert found.pruned.high > found.dense.median  # the two spreads overlap
    assert found.verdict == "faster"


@pytest.mark.parametrize(
    ("low", "median", "high", "verdict"),
    [(0.7, 0.8, 0.99, "faster"), (0.7, 0.8, 1.0, "same"), (1.0, 1.2, 1.3, "same"), (1.01, 1.2, 1.3, "slower")],
)
def test_the_verdict_needs_three_rounds_in_four(low, median, high, verdict):
    any_time = Quartiles(1.0, 1.0, 1.0)
    assert Comparison(31, any_time, any_time, Quartiles(median, low, high)).verdict == verdict


class Watched(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.linear = nn.Dropout(), nn.Linear(3, 2)
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, self.drop.training, torch.is_grad_enabled()))
        return self.linear(self.drop(x))


def test_networks_run_in_eval_mode_without_gradients_and_get_their_modes_back():
    dense, pruned = Watched(), Watched()
    pruned.drop.eval()
    compare(dense, pruned, torch.randn(4, 3), range(5))
    assert dense.calls == pruned.calls == [(False, False, False)] * 8  # three of them to warm up
    assert [m.training for m in (*dense.modules(), *pruned.modules())] == [True] * 3 + [True, False, True]


def test_time_is_counted_to_the_module_named_last(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def slow(seconds):
        return Ticking(clock, iter([86400.0] * 3 + seconds), [])

    network = nn.Sequential(slow([7.0] * 5), slow([1.0, 2.0, 3.0, 4.0, 5.0]), slow([0.5] * 5), slow([2.0] * 5))
    assert by_module(network, torch.zeros(1), ["1", "3"], 5) == {"1": 3.5, "3": 2.0}
    assert network.training
    assert not any(m._forward_pre_hooks for m in network)


def test_calls_of_one_module_add_up(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    step = Ticking(clock, iter([1.0] * 100), [])
    assert by_module(nn.Sequential(step, nn.Identity(), step), torch.zeros(1), ["0", "1"], 2) == {"0": 2.0, "1": 0.0}
