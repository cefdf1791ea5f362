"""Which filters are chosen, by statistics that are held against plain loops."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from infprune.curvature.space import ParameterSpace
from infprune.unlearning.activity import Activity, activity, filtered
from infprune.unlearning.membership import attack_auc
from infprune.unlearning.selection import SELECTIONS, Measured, chosen

NAMES = ["0", "3"]


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double().eval()


def measured(seed=0):
    here, there = torch.tensor([1.0, 4.0, 2.0, 3.0]), torch.tensor([1.0, 6.0, 1.0, 1.0])
    last = torch.tensor([1.0, 2.0, 3.0])
    forget, rest = (
        Activity({"0": here, "3": last}, {"0": -here + 5, "3": last}),
        Activity({"0": there, "3": last.flip(0)}, {"0": there, "3": last.flip(0)}),
    )
    return Measured(forget, rest, ({"0": torch.tensor([1.0, 0, 0, 0])}, {"0": torch.ones(4)}), seed)


def picked(name, ratio=0.5, threshold=0.5, seed=0):
    net = network()
    found = chosen(SELECTIONS[name], net, ParameterSpace.of(net), NAMES, ratio, threshold, measured(seed))
    return found, [found.filters[n].tolist() for n in NAMES]


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("activation-high", [[1, 3], [1, 2]]),
        ("activation-low", [[0, 2], [0, 1]]),
        ("activation-above", [[1, 2, 3], [1, 2]]),
        ("activation-exclusive", [[2, 3], [1, 2]]),
        ("gradient-high", [[0, 2], [1, 2]]),
        ("gradient-low", [[1, 3], [0, 1]]),
        ("gradient-above", [[0, 2, 3], [1, 2]]),
        ("gradient-exclusive", [[0, 2], [1, 2]]),
        ("influence", [[0, 1], [1, 2]]),
    ],
)
def test_by_hand(name, truth):
    """Half of 4 and of 3 filters; the last layer has no channel influence, so its gradient decides."""
    assert picked(name)[1] == truth


def test_every_selection_is_tested_and_random_follows_its_seed():
    assert picked("random")[1] == picked("random")[1]
    assert any(picked("random", seed=s)[1] != picked("random")[1] for s in range(1, 5))
    assert len(SELECTIONS) == 10


def test_positions_are_whole_filters_with_their_biases():
    found, (first, last) = picked("activation-high", ratio=0.25)
    assert (first, last) == ([1], [2])
    assert found.widths == {"0": 4, "3": 3}
    conv, conv_bias = range(9, 18), [36 + 1]
    linear, bias = range(40 + 32, 40 + 48), [40 + 48 + 2]
    assert found.positions.tolist() == [*conv, *conv_bias, *linear, *bias]


def test_at_least_one_filter_of_each_layer_and_all_at_ratio_one():
    assert picked("activation-high", ratio=1e-6)[1] == [[1], [2]]
    found, _ = picked("activation-high", ratio=1.0)
    assert found.positions.tolist() == list(range(4 * 10 + 3 * 17))


def test_activity_is_that_of_loops():
    torch.manual_seed(3)
    net, x, y = network(), torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    found = activity(net, NAMES, [(x[:3], y[:3]), (x[3:], y[3:])])
    outputs, gradients = {n: [] for n in NAMES}, {n: [] for n in NAMES}
    for n in range(5):
        first = net[0](x[n : n + 1])
        last = net[3](net[2](net[1](first)))
        for name, t in zip(NAMES, torch.autograd.grad(F.cross_entropy(last, y[n : n + 1]), [first, last]), strict=True):
            gradients[name].append(t)
        outputs["0"].append(first.detach())
        outputs["3"].append(last.detach())
    for name, dims in (("0", (0, 2, 3)), ("3", (0,))):
        assert_close(found.activation[name], torch.cat(outputs[name]).abs().mean(dims))
        assert_close(found.gradient[name], torch.cat(gradients[name]).abs().mean(dims))
    assert filtered(net) == NAMES


@pytest.mark.parametrize("ties", [False, True])
def test_membership_counts_pairs(ties):
    torch.manual_seed(4)
    members, others = torch.rand(13), torch.rand(7) + 0.2
    if ties:
        members, others = (4 * members).round(), (4 * others).round()
    pairs = [(a < b) + 0.5 * (a == b) for a in members for b in others]
    assert attack_auc(members, others) == pytest.approx(float(sum(pairs)) / len(pairs))
    assert attack_auc(members, members) == pytest.approx(0.5)
