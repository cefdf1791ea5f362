"""A sample left out: the chord steps against Newton's method on the other samples, and against its influence."""

import pytest
import torch
from torch import nn

from infprune.curvature import regularised
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.influence.leave_one_out import leave_one_out
from infprune.influence.retraining import minimise
from infprune.solvers.direct import Cholesky


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, 5, dtype=torch.float64, generator=generator)
    y = (x[:, 0] + 0.7 * torch.randn(60, dtype=torch.float64, generator=generator) > 0).long()
    net = nn.Linear(5, 3).double()
    batches = [(x[:25], y[:25]), (x[25:26], y[25:26]), (x[26:], y[26:])]
    objective = Objective(net, ParameterSpace.of(net), batches, ridge=1e-2)
    theta = minimise(objective, objective.theta).theta
    return objective, theta, Cholesky().init(regularised("hessian", objective, theta)), (x, y)


@pytest.mark.parametrize("index", [0, 25, 59])
def test_equals_the_minimum_of_the_other_samples(problem, index):
    objective, theta, curvature, (x, y) = problem
    kept = torch.arange(60) != index
    others = Objective(objective.module, objective.space, [(x[kept], y[kept])], ridge=1e-2 * 60 / 59)
    found = leave_one_out(objective, theta, index, curvature)
    assert found.converged
    assert not found.newton
    assert torch.allclose(found.theta, minimise(others, theta).theta, atol=1e-7)


def test_newton_takes_over_where_the_chord_does_not_converge(problem):
    objective, theta, _, _ = problem
    wrong = Cholesky().init(regularised("hessian", objective.on([next(iter(objective.batches))]), theta * 9))
    right = leave_one_out(objective, theta, 7, problem[2])
    found = leave_one_out(objective, theta, 7, wrong)
    assert found.newton
    assert torch.allclose(found.theta, right.theta, atol=1e-7)


def test_its_first_order_is_the_influence(problem):
    objective, theta, curvature, (x, y) = problem
    alone = Objective(objective.module, objective.space, [(x[:1], y[:1])])
    predicted = curvature.solve(alone.gradient(theta)).value / 60
    moved = leave_one_out(objective, theta, 0, curvature).theta - theta
    assert (predicted - moved).norm() < 0.15 * moved.norm()


@pytest.mark.parametrize("index", [-1, 60])
def test_a_sample_that_is_not_there(problem, index):
    objective, theta, curvature, _ = problem
    with pytest.raises(ConfigError, match=r"from 0 to 59, .* got"):
        leave_one_out(objective, theta, index, curvature)
