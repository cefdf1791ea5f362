"""Influence and self-influence against dense float64, and against leaving samples out."""

import pytest
import torch
from problems import DAMPING, blobs, curved, fitted, inputs, network
from torch.nn import functional as F

import reference
from infprune.attribution import influence, self_influence
from infprune.attribution.per_sample import gradients
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError


@pytest.fixture(scope="module")
def problem():
    (x, y), (xq, yq) = blobs(), blobs(30, seed=1)
    return network().double().eval(), x.double(), y, xq.double(), yq


def _H(problem):
    module, x, *_ = problem
    return reference.ggn(module, x) + DAMPING * torch.eye(sum(p.numel() for p in module.parameters()))


def _scored(problem, **options):
    how = {key: options.pop(key) for key in ("curvature", "solver") if key in options}
    module, x, y, *_ = problem
    return inputs(x.float(), y, module, curved(*problem, **how), **options)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_influence_is_the_formula(problem, solver):
    module, x, y, xq, yq = problem
    truth = reference.data_influence(
        _H(problem), reference.sample_gradients(module, x, y), reference.sample_gradients(module, xq, yq)
    )
    found = influence.compute(_scored(problem, solver=solver))
    torch.testing.assert_close(found.scores, truth, rtol=1e-7, atol=1e-9)
    assert (found.facts["samples"], found.facts["queries"]) == (60, 30)


def test_columns_of_classes_add_up(problem):
    module, x, y, xq, yq = problem
    whole = influence.compute(_scored(problem)).scores
    parts = influence.compute(_scored(problem, per_class=True))
    assert parts.groups == ("0", "1", "2")
    torch.testing.assert_close(parts.scores.sum(1), whole)
    mine = reference.sample_gradients(module, xq[yq == 1], yq[yq == 1]) * (yq == 1).sum() / 30
    truth = reference.data_influence(_H(problem), reference.sample_gradients(module, x, y), mine)
    torch.testing.assert_close(parts.scores[:, 1], truth)


@pytest.mark.parametrize("curvature", ["ggn", "kfac", "ekfac"])
@pytest.mark.parametrize("memory", [1, 2**28])
def test_self_influence_is_the_formula_in_chunks_of_any_size(problem, curvature, memory):
    module, x, y, *_ = problem
    lens = curved(*problem, curvature=curvature)
    H = lens.quadratic.operator.to_dense()
    truth = reference.self_influence(H, reference.sample_gradients(module, x, y))
    found = self_influence.compute(_scored(problem, curvature=curvature, memory=memory))
    torch.testing.assert_close(found.scores, truth, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_influence_through_kronecker_blocks_is_the_formula(problem, curvature):
    module, x, y, xq, yq = problem
    H = curved(*problem, curvature=curvature).quadratic.operator.to_dense()
    truth = reference.data_influence(
        H, reference.sample_gradients(module, x, y), reference.sample_gradients(module, xq, yq)
    )
    torch.testing.assert_close(influence.compute(_scored(problem, curvature=curvature)).scores, truth)


@pytest.mark.parametrize("curvature", ["ggn", "ekfac"])
def test_projection_is_as_far_off_as_it_says(problem, curvature):
    exact = self_influence.compute(_scored(problem, curvature=curvature)).scores
    found = self_influence.compute(_scored(problem, curvature=curvature, projection=200))
    relative = (found.scores / exact - 1).square().mean().sqrt()
    assert found.facts["relative_error"] == pytest.approx(0.1)
    assert 0.03 < relative < 0.2


def test_projection_needs_a_root(problem):
    with pytest.raises(ConfigError, match="needs a root"):
        self_influence.compute(_scored(problem, solver="cg", projection=4))


def test_gradients_are_in_order_and_few_at_a_time(problem):
    module, x, y, *_ = problem
    objective = Objective(module, ParameterSpace.of(module), [(x[:20], y[:20]), (x[20:], y[20:])])
    chunks = list(gradients(objective, 4 * 3 * objective.theta.nbytes))
    assert max(map(len, chunks)) == 3
    torch.testing.assert_close(torch.cat(chunks), reference.sample_gradients(module, x, y))


def test_influence_agrees_with_leaving_samples_out():
    """Score / N is the change of the query loss; the ridge keeps its weight, the mean stays over N."""
    (x, y), (xq, yq) = blobs(200), blobs(50, seed=1)
    x, xq, ridge = x.double(), xq.double(), 0.01
    module = fitted(x, y, ridge)
    lens = curved(module, x, y, xq, yq, curvature="hessian", damping=ridge, sizes=(100, 100))
    scores = influence.compute(inputs(x.float(), y, module, lens)).scores
    before = _loss(module, xq, yq)
    actual = []
    for n in range(0, 200, 8):
        rest = torch.arange(200) != n
        # 1/N sum over the rest + ridge = (N-1)/N (mean over the rest + N/(N-1) ridge)
        other = fitted(x[rest], y[rest], ridge * 200 / 199)
        actual.append(_loss(other, xq, yq) - before)
    actual = torch.tensor(actual, dtype=torch.float64)
    r = float(torch.corrcoef(torch.stack([actual, scores[::8] / 200]))[0, 1])
    slope = float((actual @ scores[::8] / 200) / (actual @ actual))
    assert r > 0.99
    assert 0.9 < slope < 1.1  # the sign and the unit too


def _loss(module, x, y):
    return float(F.cross_entropy(module(x), y).detach())


def test_parameters_outside_the_space_leave_no_graph(problem):
    module, x, y, *_ = problem
    objective = Objective(module, ParameterSpace.of(module, ["0.weight"]), [(x, y)])
    assert not any(g.requires_grad for g in gradients(objective, 2**20))
