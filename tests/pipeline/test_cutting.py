"""The proof at work: a layer that cannot be cut is frozen, and the plan is made again."""

import pytest
import torch
from torch import nn

from infprune.cost import count
from infprune.coupling.couple import couple
from infprune.errors import ArchitectureError, BudgetError
from infprune.latency import Comparison, Quartiles
from infprune.pipeline import timing
from infprune.pipeline.cutting import Correction, compensate, cut
from infprune.progress import Silent
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, Limits, order, prunable
from infprune.surgery import silenced


class HardCoded(nn.Module):
    """Its second width stands in the code: cutting it breaks the forward pass."""

    def __init__(self, *, fixed_first=False):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 6, 3, padding=1)
        self.last = nn.Linear(6 * 16, 3)
        self.fixed_first = fixed_first

    def forward(self, x):
        x = self.first(x).relu()
        if self.fixed_first:
            x = x.view(-1, 8, 4, 4)
        return self.last(self.second(x).relu().view(-1, 6 * 16))


def attempt(module, rate=0.5):
    x = torch.randn(4, 1, 4, 4)
    coupling = couple(module, x)
    layers = prunable(coupling)
    values = {layer.name: torch.arange(layer.size, dtype=torch.float64) for layer in layers}
    scores = ChannelScores("made up", "none", values)
    return cut(module, coupling, layers, scores, Budget(rate=rate), Limits(scope="layer"), x), x, coupling


def test_a_failing_layer_is_frozen_and_the_rest_is_cut():
    module = HardCoded().eval()
    made, x, coupling = attempt(module)
    assert list(made.frozen) == ["second"]
    assert made.plan.kept == {"first": 4}
    assert made.proof.holds
    assert made.module.first.out_channels == 4
    assert made.module.second.out_channels == 6
    torch.testing.assert_close(made.module(x), silenced(module, coupling, made.plan.masks)(x))


def test_nothing_left_is_an_error_that_names_the_layers():
    with pytest.raises(ArchitectureError, match=r"first: .*second: "):
        attempt(HardCoded(fixed_first=True).eval())


def test_compensation_leaves_the_cut_network_alone():
    module = HardCoded().eval()
    made, _, coupling = attempt(module)
    before = {name: t.clone() for name, t in made.module.state_dict().items()}
    batches = [(torch.randn(16, 1, 4, 4), torch.zeros(16, dtype=torch.int64)) for _ in range(3)]
    better = compensate(module, made, coupling, Correction("ls+bn", None, None), batches, batches, Silent())
    assert all(torch.equal(t, before[name]) for name, t in made.module.state_dict().items())
    inputs = torch.cat([x for x, _ in batches])
    gap = (better(inputs) - module(inputs)).square().mean()
    assert gap < 0.5 * (made.module(inputs) - module(inputs)).square().mean()


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))


@pytest.mark.parametrize("limit", [0.5, 3.0])
def test_a_time_budget_takes_the_first_network_that_is_fast_enough(monkeypatch, limit):
    """On a clock that takes a microsecond per entry of a weight; the dense network then takes 8 milliseconds."""

    def milliseconds(network):
        return 4e-3 * sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear))

    def compare(dense, pruned, x, rounds):
        del rounds
        assert pruned(x).shape == dense(x).shape == (1, 3)
        a, b = milliseconds(dense), milliseconds(pruned)
        return Comparison(1, Quartiles(a, a, a), Quartiles(b, b, b), Quartiles(b / a, b / a, b / a))

    def by_module(network, x, names, rounds):
        del x, rounds
        return {name: 4e-6 * network.get_submodule(name).weight.numel() for name in names}

    monkeypatch.setattr(timing, "compare", compare)
    monkeypatch.setattr(timing, "by_module", by_module)
    module, x = Wide().eval(), torch.randn(4, 4)
    coupling = couple(module, x)
    values = {layer.name: torch.arange(layer.size, dtype=torch.float64) for layer in coupling.prunable}
    scores = ChannelScores("made up", "none", values)

    def attempt(budget):
        return cut(module, coupling, coupling.prunable, scores, budget, Limits(floor=0.0), x)

    allowed = limit * milliseconds(module) if limit <= 1 else limit
    made = attempt(Budget(latency=limit))
    macs = count(coupling, made.plan.kept).macs
    assert milliseconds(made.module) <= allowed
    plans = order(coupling, coupling.prunable, scores, "macs", Limits(floor=0.0))  # on this clock, time is macs
    assert macs == max(left for left in map(plans.left, range(plans.last + 1)) if 4e-3 * left <= allowed)
    with pytest.raises(BudgetError, match=r"latency 0.001 of the dense .* out of reach: the floors allow no faster"):
        attempt(Budget(latency=0.001))
