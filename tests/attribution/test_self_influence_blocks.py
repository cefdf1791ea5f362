"""Self-influence through Kronecker blocks, without gradients of samples, against gradients and a dense matrix."""

import pytest
import torch
from problems import DAMPING, inputs
from torch import nn

import reference
from infprune import config
from infprune.attribution import self_influence
from infprune.attribution.contract import Curved
from infprune.curvature.energies import energies
from infprune.curvature.kfac import ekfac, kfac
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.influence.quadratic import Quadratic
from infprune.pipeline.data_score import solving
from infprune.solvers.direct import Cholesky

SAMPLES = 37  # no multiple of the samples whose gradients exist at a time


def images(make):
    torch.manual_seed(0)
    x, y = torch.randn(SAMPLES, 2, 6, 6, dtype=torch.float64), torch.arange(SAMPLES) % 3
    module = make().double().eval()
    return module, Objective(module, ParameterSpace.of(module), [(x[:20], y[:20]), (x[20:], y[20:])]), x, y


def grouped():
    conv = nn.Conv2d(4, 4, 3, groups=2, bias=False)
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), conv, nn.Flatten(), nn.Linear(4, 3))


def transposed():
    back = nn.ConvTranspose2d(3, 2, 3, stride=2)
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), back, nn.Flatten(), nn.Linear(50, 3, bias=False))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(72, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.first(x.flatten(1))))))))


@pytest.mark.parametrize("make", [grouped, transposed])
@pytest.mark.parametrize("curvature", [kfac, ekfac])
def test_energies_are_those_of_the_gradients(make, curvature):
    module, objective, x, y = images(make)
    inverse = curvature(objective).damped(DAMPING).power(-1.0)
    g = reference.sample_gradients(module, x, y)
    truth = ((g @ inverse.to_dense()) * g).sum(1)
    torch.testing.assert_close(energies(objective, inverse), truth, rtol=1e-9, atol=1e-12)


def test_a_module_that_runs_twice_takes_gradients_of_samples():
    module, objective, x, y = images(Twice)
    operator = kfac(objective).damped(DAMPING)
    curved = Curved(objective, objective, Quadratic(operator, objective.theta, Cholesky()))
    truth = reference.self_influence(operator.to_dense(), reference.sample_gradients(module, x, y))
    found = self_influence.compute(inputs(x.float(), y, module, curved)).scores
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-10)


def test_no_gradient_of_a_sample_is_asked_for(monkeypatch):
    module, objective, x, y = images(grouped)
    monkeypatch.setattr(self_influence, "gradients", None)
    curved = Curved(objective, objective, Quadratic(ekfac(objective).damped(DAMPING), objective.theta, Cholesky()))
    assert len(self_influence.compute(inputs(x.float(), y, module, curved)).scores) == SAMPLES


LINEAR = ["model.name=logistic_regression", "model.checkpoint=random", "samples.method=self-influence"]


@pytest.mark.parametrize(
    ("words", "solver"),
    [
        (["model.args={in_features: 784, num_classes: 10}"], "cholesky"),
        (["model.args={in_features: 1000, num_classes: 10}"], "auto"),  # 10,010 parameters
        (["model.args={in_features: 784, num_classes: 10}", "influence.curvature=ekfac"], "auto"),
        (["model.args={in_features: 784, num_classes: 10}", "influence.solver=cg"], "cg"),
        (["model.args={in_features: 784, num_classes: 10}", "samples.method=influence"], "auto"),
    ],
)
def test_a_solve_per_sample_is_worth_a_factorisation(words, solver):
    assert solving(config.load("digits", [*LINEAR, *words])).influence.solver == solver
