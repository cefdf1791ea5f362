"""The proof at work: a layer that cannot be cut is frozen, and the plan is made again."""

import pytest
import torch
from torch import nn

from infprune.coupling.couple import couple
from infprune.errors import ArchitectureError
from infprune.pipeline.cutting import Correction, compensate, cut
from infprune.progress import Silent
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, Limits, prunable
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
