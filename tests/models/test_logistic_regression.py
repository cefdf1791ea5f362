import pytest
import torch
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from infprune.errors import ConfigError
from infprune.models import MODELS
from infprune.models.build import build


def trained(in_features=3, **args):
    """In float64, away from the start."""
    model = MODELS["logistic_regression"](in_features, **args).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def loss(model, weights, x, y):
    return F.cross_entropy(functional_call(model, weights, (x,)), y)


def curvature(model, x, y):
    """Dense Hessian (P, P) of the mean loss, parameters in order."""
    weights = dict(model.named_parameters())
    blocks = jacrev(jacrev(lambda w: loss(model, w, x, y)))(weights)
    rows = [[blocks[a][b].reshape(weights[a].numel(), -1) for b in weights] for a in weights]
    return torch.cat([torch.cat(row, 1) for row in rows])


@pytest.mark.parametrize(
    ("args", "shapes"),
    [
        ({}, {"linear.weight": (1, 3), "linear.bias": (1,)}),
        ({"bias": False}, {"linear.weight": (1, 3)}),
        ({"num_classes": 3}, {"linear.weight": (3, 3), "linear.bias": (3,)}),
        ({"num_classes": 4, "bias": False}, {"linear.weight": (4, 3)}),
    ],
)
def test_parameters_start_at_zero(args, shapes):
    model = MODELS["logistic_regression"](in_features=3, **args)
    assert type(model.linear) is torch.nn.Linear
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    assert not any(tensor.any() for tensor in model.state_dict().values())
    assert model(torch.rand(2, 3)).tolist() == [[0.0] * args.get("num_classes", 2)] * 2


def test_two_classes_have_one_free_logit():
    model, x = trained(), torch.randn(5, 3, dtype=torch.float64)
    w, b = model.linear.weight[0], model.linear.bias[0]
    torch.testing.assert_close(model(x), torch.stack([torch.zeros(5).double(), x @ w + b], 1))
    torch.testing.assert_close(model(x).softmax(1)[:, 1], torch.sigmoid(x @ w + b))


def test_more_classes_are_a_softmax_regression_of_flattened_inputs():
    model, x = trained(in_features=12, num_classes=3), torch.randn(5, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(model(x), x.view(5, 12) @ model.linear.weight.T + model.linear.bias)


def test_the_hessian_of_two_classes_is_regular():
    model, x, y = trained(), torch.randn(20, 3, dtype=torch.float64), torch.arange(20) % 2
    ones = torch.cat([x, torch.ones(20, 1, dtype=torch.float64)], 1)
    p = model(x).softmax(1)[:, 1].detach()
    found = curvature(model, x, y)
    torch.testing.assert_close(found, ones.T @ (ones * (p * (1 - p) / 20)[:, None]))
    assert torch.linalg.matrix_rank(found) == 4


def test_the_hessian_of_more_classes_is_not():
    """Adding one vector to all rows changes no probability: as many flat directions as one row has parameters."""
    found = curvature(trained(num_classes=3), torch.randn(40, 3, dtype=torch.float64), torch.arange(40) % 3)
    assert torch.linalg.matrix_rank(found) == 12 - 4


@pytest.mark.parametrize("num_classes", [2, 3])
def test_gradients_of_samples_under_vmap(num_classes):
    model = trained(num_classes=num_classes)
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % num_classes
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    found = vmap(grad(lambda w, x, y: loss(model, w, x[None], y[None])), in_dims=(None, 0, 0))(weights, x, y)
    for i in range(6):
        for parameter, expected in zip(
            found.values(),
            torch.autograd.grad(F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters())),
            strict=True,
        ):
            torch.testing.assert_close(parameter[i], expected)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_exports_for_any_number_of_samples(num_classes):
    model = trained(num_classes=num_classes).eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.randn(4, 3, dtype=torch.float64),), dynamic_shapes=batch)
    x = torch.randn(9, 3, dtype=torch.float64)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({}, "missing a required argument: 'in_features'"),
        ({"in_features": 0}, r"model\.args\.in_features of logistic_regression must be an integer >= 1, got 0"),
        ({"in_features": "30"}, "in_features of logistic_regression must be an integer >= 1, got '30'"),
        ({"in_features": 2, "num_classes": 1}, r"num_classes of logistic_regression must be an integer >= 2, got 1"),
        ({"in_features": 2, "num_classes": 2.0}, r"num_classes of .* must be an integer >= 2, got 2\.0"),
    ],
)
def test_bad_arguments(args, text):
    with pytest.raises(ConfigError, match=text) as caught:
        build("logistic_regression", None, args)
    assert "\n" not in str(caught.value)
