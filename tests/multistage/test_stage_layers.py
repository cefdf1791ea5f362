"""The head that a stage replaces, what it holds, training without a sample, and samples of some classes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infprune.data.classes import all_labels, chosen, original
from infprune.data.dataset import ArrayDataset, Part, gather
from infprune.data.loaders import batches
from infprune.errors import ArchitectureError, ConfigError, InputError
from infprune.multistage.layers import Still, head, held, matching, owned, renew
from infprune.multistage.left_out import LeftOut
from infprune.training import Recipe, train


def net():
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    )


def test_the_last_linear_layer_is_the_head():
    assert head(net(), None) == (("1.2",), "1.2")
    assert head(net(), ["1"]) == (("1.0", "1.2"), "1.2")
    assert head(net(), ["1.0", "0.1"]) == (("0.1", "1.0"), "1.0")
    with pytest.raises(ArchitectureError, match=r"trace\.head: none of 0\.1 is linear"):
        head(net(), ["0.1"])
    with pytest.raises(ArchitectureError, match="the network has no linear layer"):
        head(nn.Conv2d(1, 1, 1), None)


def test_patterns_name_layers_or_what_holds_them():
    assert matching(net(), ["0"], "k") == ("0.0", "0.1")
    assert matching(net(), ["*.0"], "k") == ("0.0", "1.0")
    with pytest.raises(ConfigError, match=r"k: no layer of the network matches '1\.5'; did you mean 1\.2"):
        matching(net(), ["0", "1.5"], "k")


def test_the_head_is_new_and_wider_and_the_rest_stays():
    module = net()
    before = {name: p.clone() for name, p in module.named_parameters()}
    renew(module, ("1.0", "1.2"), "1.2", 7)
    assert module(torch.randn(3, 3)).shape == (3, 7)
    for name, p in module.named_parameters():
        assert (p.shape == before[name].shape and torch.equal(p, before[name])) == name.startswith("0")
    assert owned(module, ("1.2", "0.1")) == {"1.2.weight", "1.2.bias", "0.1.weight", "0.1.bias"}

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    with pytest.raises(ArchitectureError, match=r"0 \(Own\) has no reset_parameters"):
        renew(nn.Sequential(Own(), nn.Linear(2, 2)), ("0", "1"), "1", 2)


def data(count=40):
    return ArrayDataset(torch.randn(count, 3), torch.arange(count) % 2)


def trained(module, samples, plugin=None, epochs=2, **more):
    recipe = Recipe(epochs, lr=0.05, momentum=0.0, weight_decay=0.0, schedule="constant", batch_size=10)
    train(module, samples, batches(samples, 10), recipe, seed=0, plugin=plugin, **more)
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_what_is_held_does_not_move_nor_do_its_statistics():
    module, samples = net(), data()
    before = copy.deepcopy(module.state_dict())
    names = owned(module, ("0.0", "0.1"))
    with held(module, names):
        after = trained(module, samples, Still(("0.0", "0.1")))
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith("0"), name
    assert all(p.requires_grad for p in module.parameters())


def test_leaving_out_is_a_gradient_step_without_the_sample():
    """One batch of all samples: its mean loss less 1/m of one is (m - 1)/m of the mean over the others."""
    start = nn.Linear(3, 2)
    samples, i = data(10), 4
    x, y = gather(samples, [i])
    module = copy.deepcopy(start)
    trained(module, samples, LeftOut(x, y, 1 / 10), epochs=1)
    others = [j for j in range(10) if j != i]
    X, Y = gather(samples, others)
    (0.9 * F.cross_entropy(start(X), Y)).backward()
    torch.testing.assert_close(module.weight, start.weight - 0.05 * start.weight.grad)
    torch.testing.assert_close(module.bias, start.bias - 0.05 * start.bias.grad)


class Lazy:
    """Labels come with the inputs alone."""

    def __init__(self, base):
        self.base = base

    def __len__(self):
        return len(self.base)

    def __getitem__(self, i):
        x, y = self.base[i]
        return x, y


@pytest.mark.parametrize("wrap", [lambda d: d, Lazy])
def test_samples_of_some_classes(wrap):
    base = ArrayDataset(torch.arange(12.0)[:, None], torch.arange(12) % 4)
    found = chosen(wrap(base), [3, 1], 4, "where")
    assert all_labels(found).tolist() == [1, 0, 1, 0, 1, 0]
    x, y = gather(found, [5, 0])
    assert (x[:, 0].tolist(), y.tolist()) == ([11.0, 1.0], [0, 1])
    assert found[2] == (torch.tensor([5.0]), 1)
    part = Part(found, torch.tensor([4, 1]))
    assert [original(part, i) for i in (0, 1)] == [9, 3]


def test_classes_that_are_not_there():
    base = ArrayDataset(torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ConfigError, match=r"where: expected different labels from 0 to 2, got \[0, 3\]"):
        chosen(base, [0, 3], 3, "where")
    with pytest.raises(ConfigError, match="different labels"):
        chosen(base, [0, 0], 3, "where")
    with pytest.raises(InputError, match="where: the data has no sample of class 2"):
        chosen(base, [0, 2], 3, "where")
