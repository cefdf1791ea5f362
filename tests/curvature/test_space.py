import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import CASES
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError


def net():
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 4))


def test_theta_is_the_parameters_in_their_order():
    module = net()
    space = ParameterSpace.of(module)
    assert space.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert space.size == sum(p.numel() for p in module.parameters())
    theta = space.values(module)
    assert_close(theta, torch.cat([p.detach().flatten() for p in module.parameters()]))
    parts = space.split(theta)
    assert all(torch.equal(parts[name], p) for name, p in module.named_parameters())
    assert torch.equal(space.join(parts), theta)
    assert space.split(theta.expand(5, -1))["0.weight"].shape == (5, 3, 2, 2, 2)
    space.load(module, 2 * theta)
    assert_close(space.values(module), 2 * theta)


def test_a_choice_keeps_the_order_of_the_network():
    space = ParameterSpace.of(net(), ["2.weight", "0.bias"])
    assert space.names == ("0.bias", "2.weight")
    assert space.at("2.weight").tolist() == list(range(3, 15))


def test_slices_are_where_the_tensor_says():
    module = net()
    space = ParameterSpace.of(module)
    theta = torch.arange(space.size)
    weight = space.split(theta)["0.weight"]
    at = space.at("0.weight", 1, torch.tensor([1]))
    assert at.tolist() == sorted(weight[:, 1].flatten().tolist())
    assert space.at("2.bias").tolist() == space.split(theta)["2.bias"].tolist()


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_every_slice_of_every_dimension(name):
    module = net()
    space = ParameterSpace.of(module)
    tensor = space.split(torch.arange(space.size))[name]
    for dim in range(tensor.dim()):
        for index in ([0], [tensor.shape[dim] - 1, 0], list(range(tensor.shape[dim]))):
            found = space.at(name, dim, torch.tensor(index))
            assert found.tolist() == sorted(tensor.index_select(dim, torch.tensor(index)).flatten().tolist())


def test_what_is_loaded_is_what_is_read():
    module, theta = net(), torch.randn(43)
    space = ParameterSpace.of(module, ["2.weight", "0.bias"])
    rest = {n: p.clone() for n, p in module.named_parameters() if n not in space.names}
    space.load(module, theta[: space.size])
    assert torch.equal(space.values(module), theta[: space.size])
    assert all(torch.equal(dict(module.named_parameters())[n], p) for n, p in rest.items())
    assert not space.values(module).requires_grad
    assert all(p.requires_grad for p in module.parameters())


def test_tied_weights_have_one_name():
    module, _ = CASES["tied"]()
    space = ParameterSpace.of(module)
    assert "first.weight" in space.names
    assert "second.weight" not in space.names


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (lambda m: ParameterSpace.of(m, ["2.wieght"]), "did you mean 2.weight"),
        (lambda m: ParameterSpace.of(m, []), "at least one parameter"),
        (lambda _: ParameterSpace.of(nn.ReLU()), "at least one parameter"),
        (lambda m: ParameterSpace.of(m, ["0.bias"]).at("2.bias"), "2.bias is not among the 1 parameters"),
    ],
)
def test_what_is_not_there(work, text):
    with pytest.raises(ConfigError, match=text):
        work(net())
