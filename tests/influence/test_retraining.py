"""Newton's method with pinned parameters, against scipy and against closed forms."""

import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.testing import assert_close

import reference
from infprune.curvature import regularised
from infprune.curvature.ggn import ggn
from infprune.curvature.losses import SQUARED_ERROR
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.influence.block import block
from infprune.influence.evaluation_change import evaluation_change
from infprune.influence.quadratic import Quadratic
from infprune.influence.retraining import distance, minimise
from infprune.models.logistic_regression import logistic_regression
from infprune.solvers import SOLVERS

S = torch.tensor([1, 4])


def logistic(ridge=1e-2):
    x = torch.randn(80, 6, dtype=torch.float64)
    y = (x @ torch.linspace(-1, 1, 6, dtype=torch.float64) + torch.randn(80) > 0).long()
    net = logistic_regression(6).double().eval()
    return Objective(net, ParameterSpace.of(net), [(x[:50], y[:50]), (x[50:], y[50:])], ridge=ridge)


def test_the_minimum_is_scipys():
    o = logistic()
    found = minimise(o, o.theta, S)
    assert found.converged
    assert found.gradient_norm <= 1e-10
    assert torch.equal(found.theta[S], torch.zeros(2, dtype=torch.float64))
    F = torch.tensor([i for i in range(7) if i not in S.tolist()])

    def at(free):
        theta = torch.zeros(7, dtype=torch.float64)
        theta[F] = torch.from_numpy(free)
        return o.value(theta), o.gradient(theta)[F].numpy()

    truth = minimize(
        at, torch.zeros(len(F), dtype=torch.float64).numpy(), jac=True, method="BFGS", options={"gtol": 1e-10}
    )
    assert_close(found.theta[F], torch.from_numpy(truth.x), rtol=1e-6, atol=1e-8)
    assert found.value == pytest.approx(truth.fun, rel=1e-12)
    assert o.value(found.theta) == found.value


def test_the_network_is_left_alone():
    o = logistic()
    before = o.theta
    minimise(o, before, S)
    assert torch.equal(o.theta, before)


def test_on_a_quadratic_influence_is_retraining():
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 2, dtype=torch.float64)
    net = nn.Linear(5, 2).double().eval()
    o = Objective(net, ParameterSpace.of(net), [(x, y)], SQUARED_ERROR, ridge=0.1)
    dense = minimise(o, o.theta)
    assert dense.iterations <= 2
    o.space.load(net, dense.theta)
    q = Quadratic(regularised("ggn", o), dense.theta, SOLVERS["cholesky"]())
    predicted, retrained = block(q, S), minimise(o, dense.theta, S)
    assert_close(dense.theta + predicted.shift, retrained.theta, rtol=1e-9, atol=1e-11)
    assert predicted.change == pytest.approx(retrained.value - dense.value, rel=1e-8)


def test_the_prediction_is_of_second_order():
    """A ridge that pulls to zero scales theta down; the relative error of the predicted change goes down with it."""
    errors = []
    for ridge in (1e-2, 1.0, 100.0):
        o = logistic(ridge)
        dense = minimise(o, o.theta)
        o.space.load(o.module, dense.theta)
        q = Quadratic(regularised("ggn", o), dense.theta, SOLVERS["cholesky"]())
        actual = minimise(o, dense.theta, S).value - dense.value
        errors.append(abs(block(q, S).change / actual - 1))
        torch.manual_seed(0)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_a_network_with_hidden_units():
    x, y = torch.randn(60, 4, dtype=torch.float64), torch.arange(60) % 3
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    o = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=0.02)
    found = minimise(o, 3 * torch.randn_like(o.theta))
    assert found.converged
    assert float(o.gradient(found.theta).norm()) <= 1e-10
    o.space.load(net, found.theta)
    low = torch.linalg.eigvalsh(reference.loss_hessian(net, x, y) + 0.02 * torch.eye(o.space.size).double())[0]
    assert low > 0  # a minimum, not a saddle


@pytest.mark.parametrize("seed", range(4))
def test_far_starts_arrive(seed):
    """Far away the gradient's norm goes up and down for long while the loss falls: no reason to give up."""
    torch.manual_seed(seed)
    x = torch.randn(76, 40, dtype=torch.float64)
    y = (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    net = nn.Sequential(nn.Linear(40, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    o = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=0.02)
    pinned = torch.randperm(o.space.size)[:70]
    found = minimise(o, o.theta + torch.randn_like(o.theta), pinned)
    assert found.converged
    assert float(found.theta[pinned].abs().max()) == 0
    free = torch.ones(o.space.size, dtype=torch.bool)
    free[pinned] = False
    assert float(o.gradient(found.theta)[free].norm()) <= 1e-10
    assert found.value < 0.5 * o.value(torch.zeros_like(o.theta))


def test_a_vanishing_gradient_is_not_always_near_a_minimum():
    """Separable data: the loss falls for ever, and Newton's next step is as long as the last; not with a ridge."""
    x = torch.randn(30, 3, dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    net = logistic_regression(3, bias=False).double().eval()
    far = {}
    for ridge in (0.0, 1e-3):
        o = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=ridge)
        found = minimise(o, o.theta)
        assert found.converged
        far[ridge] = distance(o, found.theta)
    assert far[0.0] > 1e-2
    assert far[1e-3] < 1e-6


def test_the_predicted_change_of_the_test_loss_is_its_derivative():
    o = logistic()
    dense = minimise(o, o.theta)
    o.space.load(o.module, dense.theta)
    x = torch.randn(40, 6, dtype=torch.float64)
    test = Objective(o.module, o.space, [(x, (x.sum(1) > 0).long())])
    shift = block(Quadratic(regularised("ggn", o), dense.theta, SOLVERS["cholesky"]()), S).shift
    gradient, bend = test.gradient(dense.theta), ggn(test)  # a linear network: the GGN is the Hessian
    first, second = evaluation_change(gradient, shift), evaluation_change(gradient, shift, bend)
    eps = 1e-4
    up, here, down = (test.value(dense.theta + s * eps * shift) for s in (1, 0, -1))
    assert first == pytest.approx((up - down) / (2 * eps), rel=1e-6)
    assert second - first == pytest.approx((up + down - 2 * here) / (2 * eps**2), rel=1e-5)
    step = 0.1 * shift
    predicted = evaluation_change(gradient, step), evaluation_change(gradient, step, bend)
    errors = [abs(test.value(dense.theta + step) - here - p) for p in predicted]
    assert errors[1] < 0.1 * errors[0]


def test_stopped_early_is_told():
    o = logistic()
    found = minimise(o, 5 * torch.ones_like(o.theta), max_iterations=1)
    assert not found.converged
    assert found.iterations == 1
    assert found.gradient_norm > 1e-10


def test_a_tolerance_below_rounding_is_given_up():
    """Where neither the loss nor the gradient moves any more, a hundred further steps would tell nothing."""
    o = logistic()
    found = minimise(o, o.theta, S, tolerance=1e-30, max_iterations=100)
    assert not found.converged
    assert 1e-30 < found.gradient_norm < 1e-14
    assert found.iterations < 40
    assert_close(found.theta, minimise(o, o.theta, S).theta, rtol=1e-9, atol=1e-12)


def test_everything_pinned():
    o = logistic()
    found = minimise(o, torch.randn_like(o.theta), torch.arange(7))
    assert torch.equal(found.theta, torch.zeros(7, dtype=torch.float64))
    assert found.value == pytest.approx(torch.tensor(2.0).log().item())


def test_too_many_parameters_for_newton():
    net = nn.Linear(30_000, 2).eval()
    o = Objective(net, ParameterSpace.of(net), [(torch.randn(2, 30_000), torch.tensor([0, 1]))])
    with pytest.raises(ConfigError, match="a dense 60,002 x 60,002 curvature needs"):
        minimise(o, o.theta)
