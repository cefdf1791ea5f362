"""What an entry of a weight takes on a clock of the test, and orders that spend it."""

import pytest
import torch
from torch import nn

from infprune import cost
from infprune.coupling.couple import couple
from infprune.pipeline import timing
from infprune.scores.contract import ChannelScores
from infprune.selection import Limits, order


class Two(nn.Module):
    """A wide layer, a narrow one, and a bare weight."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow, self.out = nn.Linear(4, 40), nn.Linear(40, 20), nn.Parameter(torch.randn(20, 3))

    def forward(self, x):
        return self.narrow(self.wide(x).relu()).relu() @ self.out


@pytest.fixture
def clock(monkeypatch):
    """Milliseconds per entry by module; `set` changes them."""
    rates = {"wide": 5e-3, "narrow": 1e-3}

    def by_module(network, x, names, rounds):
        del x, rounds
        return {n: 1e-3 * (1.0 + rates[n] * network.get_submodule(n).weight.numel()) for n in names}

    monkeypatch.setattr(timing, "by_module", by_module)
    return rates


def test_slopes_leave_out_what_no_channel_frees(clock):
    module, x = Two().eval(), torch.randn(2, 4)
    coupling = couple(module, x)
    found = timing.entry_times(module, coupling, coupling.prunable, x)
    assert found["wide.weight"] == pytest.approx(5e3)  # nanoseconds; the constant millisecond is in no slope
    assert found["narrow.weight"] == pytest.approx(1e3)
    mean = 1e6 * (2 + 5e-3 * 160 + 1e-3 * 800) / (160 + 800)
    assert found["out"] == pytest.approx(mean)


def test_noise_is_worth_a_tenth_of_the_mean(clock):
    clock["narrow"] = -1e-6
    module, x = Two().eval(), torch.randn(2, 4)
    coupling = couple(module, x)
    found = timing.entry_times(module, coupling, coupling.prunable, x)
    assert found["narrow.weight"] == pytest.approx(0.1 * found["out"])


def test_the_order_prefers_what_takes_time():
    module, x = Two().eval(), torch.randn(2, 4)
    coupling = couple(module, x)
    layers = coupling.prunable
    alike = ChannelScores(
        "made up", "none", {layer.name: torch.ones(layer.size, dtype=torch.float64) for layer in layers}
    )
    for slow, fast in (("wide.weight", "out"), ("out", "wide.weight")):
        times = {slow: 1000.0, "narrow.weight": 1.0, fast: 1.0}
        plans = order(coupling, layers, alike, times, Limits(floor=0.0))
        first = plans.plan(1)
        gone = {layer.name: layer.size - first.kept[layer.name] for layer in layers}
        cut = max(gone, key=gone.get)
        assert any(s.tensor == slow for layer in layers if layer.name == cut for s in layer.slices)
        everything = sum(times[n] * coupling.tensors[n].shape.numel() for n in times)
        assert plans.left(0) == pytest.approx(everything)
        for step in (1, plans.last):
            meter = cost.Meter(coupling, times)
            for name, kept in plans.plan(step).kept.items():
                meter.remove(name, len(plans.plan(step).masks[name]) - kept)
            assert plans.left(step) == pytest.approx(meter.left)
