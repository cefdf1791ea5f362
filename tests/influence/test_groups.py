import pytest
import torch
from torch import nn

from cases import CASES, coupled
from infprune.coupling.groups import Role
from infprune.curvature.space import ParameterSpace
from infprune.errors import ArchitectureError, ConfigError
from infprune.influence.groups import (
    channel_groups,
    feature_groups,
    first_layer,
    layer_groups,
    named_groups,
    random_groups,
)


def marked(module):
    """Each parameter's entries hold their own position in theta."""
    space = ParameterSpace.of(module)
    space.load(module, torch.arange(space.size, dtype=torch.float32))
    return space


def test_random_groups():
    groups = random_groups(60, 0.3, 20, 7)
    assert [len(g.positions) for g in groups] == [18] * 20
    assert all(len(g.positions.unique()) == 18 and int(g.positions.max()) < 60 for g in groups)
    assert len({tuple(g.positions.tolist()) for g in groups}) == 20
    again = random_groups(60, 0.3, 20, 7)
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(groups, again, strict=True))
    assert not torch.equal(random_groups(60, 0.3, 1, 8)[0].positions, groups[0].positions)
    assert len(random_groups(60, 0.001, 1, 0)[0].positions) == 1
    counts = torch.cat([g.positions for g in random_groups(10, 0.5, 2000, 0)]).bincount()
    assert bool(((counts - 1000).abs() < 120).all())  # every parameter equally often


def test_single_parameters_are_distinct():
    found = torch.cat([g.positions for g in random_groups(9, 0, 200, 0)])
    assert sorted(found.tolist()) == list(range(9))
    assert len(random_groups(9, 0, 4, 0)) == 4


def test_layers_are_what_modules_own():
    module, _ = CASES["tied"]()
    space = ParameterSpace.of(module)
    groups = layer_groups(space, module)
    assert [g.name for g in groups] == ["stem", "first", "head"]  # the tied twin owns nothing of its own
    assert torch.equal(torch.cat([g.positions for g in groups]), torch.arange(space.size))
    some = ParameterSpace.of(module, ["head.bias", "stem.weight"])
    assert [len(g.positions) for g in layer_groups(some, module)] == [90, 4]


def test_layers_that_own_parameters_beside_submodules():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.inner = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
            self.head = nn.Linear(3, 2)

    module = Nested()
    space = ParameterSpace.of(module)
    groups = {g.name: g.positions.tolist() for g in layer_groups(space, module)}
    assert list(groups) == ["the network itself", "inner.0", "inner.1", "head"]
    assert [len(S) for S in groups.values()] == [2, 9, 6, 8]
    assert groups["inner.1"] == [*space.at("inner.1.weight").tolist(), *space.at("inner.1.bias").tolist()]


@pytest.mark.parametrize("name", ["residual", "concat", "plain", "separable", "grouped", "tied", "reused", "mlp"])
def test_channels_are_what_reads_them(name):
    module, _ = CASES[name]()
    space = marked(module)
    tensors = dict(module.named_parameters())
    for layer in coupled(name).prunable:
        groups = channel_groups(space, layer)
        assert len(groups) == layer.size
        for c, group in enumerate(groups):
            truth = [
                tensors[s.tensor].detach().select(s.dim, int(i)).flatten()
                for s in layer.having(Role.CONSUMER)
                for i in s.index[c]
            ]
            assert group.positions.tolist() == sorted(torch.cat(truth).long().tolist())
    with pytest.raises(ArchitectureError, match="no parameter that is looked at reads its channels"):
        channel_groups(ParameterSpace.of(module, [space.names[0]]), layer)


def test_features_of_a_linear_layer_behind_a_flatten():
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    space = marked(module)
    first = first_layer(module, torch.randn(2, 1, 2, 3))
    assert (first.weight, first.dim, first.shape) == ("1.weight", 1, (1, 2, 3))
    groups = feature_groups(space, first)
    assert [g.positions.tolist() for g in groups] == [module[1].weight[:, i].detach().long().tolist() for i in range(6)]


def test_features_of_a_convolution_are_its_input_channels():
    module = nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2))
    space = marked(module)
    first = first_layer(module, torch.randn(2, 3, 3, 3))
    groups = feature_groups(space, first, ["r", "g", "b"])
    assert [g.name for g in groups] == ["r", "g", "b"]
    assert groups[1].positions.tolist() == module[0].weight[:, 1].detach().flatten().long().tolist()
    turned = nn.Sequential(nn.ConvTranspose1d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2))
    found = first_layer(turned, torch.randn(2, 3, 3))
    assert (found.dim, found.shape) == (0, (3,))


class TwoReaders(nn.Module):
    """Wide and deep: the inputs go to two layers; `tied` makes them one weight."""

    def __init__(self, *, tied):
        super().__init__()
        self.wide, self.deep, self.head = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 3)
        if tied:
            self.deep.weight = self.wide.weight

    def forward(self, x):
        return self.wide(x) + self.head(self.deep(x).tanh())


def test_inputs_that_several_weights_read():
    with pytest.raises(ArchitectureError, match=r"several weights read .* use influence\.space=gates"):
        first_layer(TwoReaders(tied=False), torch.randn(3, 4))
    assert first_layer(TwoReaders(tied=True), torch.randn(3, 4)).weight == "wide.weight"
    twice = nn.Linear(4, 4)
    with torch.no_grad():
        twice.weight.copy_(torch.eye(4))  # what it hands on is what it was given: read twice, by one weight
        twice.bias.zero_()
    assert first_layer(nn.Sequential(twice, twice), torch.randn(3, 4)).weight == "0.weight"


def test_weights_of_which_no_slice_belongs_to_a_feature():
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 2))
    tokens = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 2))
    made = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    for module, x in ((grouped, torch.randn(2, 4, 2, 2)), (tokens, torch.randn(2, 2, 3)), (made, torch.randn(2, 4))):
        with pytest.raises(ArchitectureError, match="no linear or convolution layer reads"):
            first_layer(module, x)


def test_a_search_leaves_no_hook_behind():
    module = nn.Sequential(nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(ArchitectureError):
        first_layer(module, torch.randn(2, 4))
    assert not module[1]._forward_pre_hooks


def test_a_network_that_reads_something_else():
    for module in (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), nn.Sequential(nn.Tanh(), nn.Linear(4, 2))):
        with pytest.raises(ArchitectureError, match=r"use influence\.space=gates"):
            first_layer(module.eval(), torch.randn(2, 4))


def test_named_groups():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    space = marked(module)
    (group, bias) = named_groups(space, {"a": {"0.weight": {0: [1], 1: [0]}}, "b": {"1.bias": None}})
    weight = module[0].weight.detach().long()
    assert group.positions.tolist() == sorted({*weight[1].tolist(), *weight[:, 0].tolist()})
    assert bias.positions.tolist() == module[1].bias.detach().long().tolist()


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"a": {"0.wight": None}}, r"group a: 0\.wight is not among the 2 .*; did you mean 0\.weight\?"),
        ({"b": {"xyz": {0: [0]}}}, r"group b: xyz is not among the 2 .*; they are 0\.weight, 0\.bias"),
        ({"a": {"0.weight": {-5: [0]}}}, "along -5"),
        ({"a": {"0.weight": {0: []}}}, r"holds no indices \[\] along 0"),
        ({"a": {"0.weight": {}}}, "at least one parameter"),
        ({"a": {"0.weight": {0: [4]}}}, r"shape \(4, 3\), it holds no indices \[4\] along 0"),
        ({"a": {"0.weight": {2: [0]}}}, "along 2"),
        ({"a": {"0.weight": {0: [-1]}}}, r"no indices \[-1\]"),
        ({"a": {}}, "at least one parameter"),
    ],
)
def test_named_groups_that_are_not_there(chosen, text):
    with pytest.raises(ConfigError, match=text):
        named_groups(ParameterSpace.of(nn.Sequential(nn.Linear(3, 4))), chosen)
