"""What validate, layers and features look through: point, dtype, damping, floor, solver."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import reference
from infprune import config
from infprune.config import schema
from infprune.curvature import CURVATURES
from infprune.curvature.algebra import Damped
from infprune.curvature.kfac import Kronecker
from infprune.errors import ConfigError
from infprune.influence import FORMS
from infprune.pipeline import validate
from infprune.pipeline.agreement import agreement
from infprune.pipeline.influence_results import Agreement
from infprune.pipeline.instrument import AUTO, DENSE_PARAMETERS, open_problem, through_gates, through_weights
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from infprune.solvers import SOLVERS
from infprune.solvers.direct import Cholesky

SMALL = ["model.factory=small:net", "model.checkpoint=random", "data.batch_size=64", "data.calibration=96"]
FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 10))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "small.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)


def opened(*words, source=None):
    return open_problem(config.load(source, words), "layers", Stopwatch())


def lens_of(*words):
    problem = opened(*SMALL, *words)
    return problem, through_weights(problem)


def data(problem):
    xs, ys = zip(*problem.objective.batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_what_can_be_configured_is_what_there_is():
    assert set(get_args(schema.Curvature)) == CURVATURES.keys()
    assert set(get_args(schema.Solver)) == {"auto", *SOLVERS}
    assert set(get_args(schema.Form)) == FORMS.keys()


# --- the point --------------------------------------------------------------------------------------------------------


def test_small_networks_are_taken_in_float64_and_large_ones_as_they_are():
    small = opened(*SMALL)
    assert small.objective.theta.dtype == torch.float64
    assert data(small)[0].dtype == small.fitting(torch.ones(1)).dtype == torch.float64
    assert small.objective.space.size <= DENSE_PARAMETERS
    for words in ([], ["influence.solver=cg"]):
        large = opened("data.calibration=32", *words)
        assert large.objective.theta.dtype == torch.float32
    assert opened(*SMALL, "influence.solver=cg").objective.theta.dtype == torch.float32


def test_samples_are_the_calibration_ones_unless_the_network_is_fitted():
    problem = opened(*SMALL)
    assert problem.objective.samples() == 96
    problem = opened("influence.ridge=0.1", source="breast-cancer")
    assert problem.objective.samples() == len(problem.session.splits.train) == 450
    assert float(problem.objective.gradient(problem.objective.theta).norm()) <= 1e-10
    assert torch.equal(problem.module.linear.weight.flatten(), problem.objective.theta[:30])
    assert float(problem.objective.theta.norm()) > 0.1
    raw = opened("influence.fit=false", source="breast-cancer")
    assert float(raw.objective.theta.abs().max()) == 0


def test_kfac_speaks_of_some_parameters():
    problem = opened("data.calibration=32", "influence.curvature=kfac")
    assert not [name for name in problem.objective.space.names if "norm" in name or "bn" in name]
    assert problem.objective.space.size == 221_418  # of 222,570


def test_separable_data_have_no_minimum():
    with pytest.raises(ConfigError, match=r"the loss has no minimum.*set influence\.ridge above 0"):
        opened("influence.ridge=0.0", source="breast-cancer")


def test_what_is_too_large_is_refused_before_a_product(monkeypatch):
    problem = opened("data.calibration=32", "influence.solver=cholesky")
    monkeypatch.setitem(CURVATURES, "ggn", None)
    with pytest.raises(ConfigError, match=r"396,299,239,200 bytes.*influence\.solver=cg"):
        through_weights(problem)


# --- ridge and damping ------------------------------------------------------------------------------------------------


def test_auto_is_a_share_of_the_greatest_eigenvalue():
    problem, lens = lens_of()
    G = reference.ggn(problem.module, data(problem)[0])
    high = float(torch.linalg.eigvalsh(G)[-1])
    assert lens.described.damping == pytest.approx(AUTO * high, rel=1e-6)
    assert lens.described.greatest_eigenvalue == pytest.approx(high, rel=1e-6)
    assert lens.quadratic.floor == lens.described.damping
    eye = torch.eye(len(G), dtype=torch.float64)
    assert_close(lens.quadratic.matrix, G + lens.described.damping * eye, rtol=1e-9, atol=1e-12)
    S = torch.tensor([0, 7, 100])
    H = G + lens.described.damping * eye
    truth = reference.block(H, problem.objective.theta, S.tolist())[1]
    assert lens.removal(S).change == pytest.approx(float(truth), rel=1e-6)


@pytest.mark.parametrize(
    ("words", "total"),
    [
        (["influence.ridge=0.02"], 0.02),
        (["influence.damping=0.03"], 0.03),
        (["influence.ridge=0.02", "influence.damping=0.03"], 0.05),
    ],
)
@pytest.mark.parametrize("curvature", ["ggn", "kfac"])
def test_ridge_and_damping_are_both_on_the_diagonal(words, total, curvature):
    _, bare = lens_of("influence.damping=0", f"influence.curvature={curvature}", "influence.solver=cg")
    _, lens = lens_of(*words, f"influence.curvature={curvature}", "influence.solver=cg")
    added = lens.quadratic.operator.diagonal() - bare.quadratic.operator.diagonal()
    assert_close(added, torch.full_like(added, total), rtol=1e-3, atol=1e-6)
    assert lens.described.ridge + lens.described.damping == pytest.approx(total)
    assert lens.quadratic.floor == pytest.approx(total)
    assert bare.quadratic.floor is None


def test_a_hessian_gets_the_damping_that_its_least_eigenvalue_asks_for():
    problem, lens = lens_of("influence.curvature=hessian")
    low = float(torch.linalg.eigvalsh(reference.loss_hessian(problem.module, *data(problem)))[0])
    assert low < -1e-3
    assert lens.described.damping > -low
    assert lens.quadratic.floor is None  # an estimate is no certificate
    assert lens.removal(torch.tensor([0, 1])).change > 0
    _, ridged = lens_of("influence.curvature=hessian", "influence.ridge=0.01")
    assert ridged.described.damping == pytest.approx(lens.described.damping - 0.01, rel=0.2)


def test_gates_know_nothing_of_the_ridge_and_are_one():
    settings = config.load(None, ["influence.ridge=0.5", "influence.damping=0.1"])
    Z = torch.randn(20, 6)
    lens = through_gates(settings, Z, 20)
    H = Z.double().T @ Z.double() / 20 + 0.1 * torch.eye(6, dtype=torch.float64)
    truth = reference.block(H, torch.ones(6, dtype=torch.float64), [1, 4])[1]
    assert lens.removal(torch.tensor([1, 4])).change == pytest.approx(float(truth), rel=1e-9)
    assert (lens.described.ridge, lens.described.damping, lens.described.space) == (0.0, 0.1, "gates")
    assert lens.described.gradient_norm is None


# --- the solver -------------------------------------------------------------------------------------------------------


def test_the_solver_that_auto_stands_for():
    _, small = lens_of()
    assert isinstance(small.quadratic.solver, Cholesky)
    assert small.described.solver == "cholesky"
    _, iterative = lens_of("influence.solver=cg", "influence.rtol=1e-5", "influence.max_iterations=7")
    assert (iterative.quadratic.solver.rtol, iterative.quadratic.solver.max_iterations) == (1e-5, 7)
    assert (iterative.quadratic.rtol, iterative.quadratic.steps) == (1e-5, 7)
    assert iterative.quadratic.solver.preconditioner is None  # a GGN's diagonal costs a product per parameter
    assert isinstance(iterative.quadratic.operator, Damped)
    _, kronecker = lens_of("influence.solver=cg", "influence.curvature=kfac")
    assert kronecker.quadratic.solver.preconditioner is not None
    assert isinstance(kronecker.quadratic.operator, Kronecker)


@pytest.mark.parametrize("solver", ["ldl", "cg", "lsmr", "neumann", "normal-cg"])
def test_every_solver_comes_to_the_same(solver):
    words = ["influence.damping=0.05", "influence.max_iterations=2000"]
    S = torch.tensor([3, 64, 195, 230])
    truth = lens_of(*words)[1].removal(S).change
    assert lens_of(*words, f"influence.solver={solver}", "influence.rtol=1e-5")[1].removal(S).change == pytest.approx(
        truth, rel=1e-4
    )


def test_lissa_repeats_itself_for_a_seed():
    words = ["influence.solver=lissa", "influence.damping=0.05", "influence.max_iterations=50"]
    S = torch.tensor([3, 64])
    first, again, other = (lens_of(*words, f"run.seed={s}")[1].removal(S).change for s in (1, 1, 2))
    assert first == again != other


# --- what validate compares -------------------------------------------------------------------------------------------


def test_agreement_is_pearsons_and_the_slope_of_a_line():
    actual, predicted = torch.randn(2, 30, dtype=torch.float64)
    predicted = predicted + 2 * actual
    found = agreement(predicted, actual)
    assert found.r == pytest.approx(np.corrcoef(predicted, actual)[0, 1], rel=1e-12)
    assert found.slope == pytest.approx(np.polyfit(actual, predicted, 1)[0], rel=1e-12)
    one = torch.ones(3, dtype=torch.float64)
    assert agreement(one, actual[:3]) == Agreement(None, 0.0)
    for few in (agreement(actual[:3], one), agreement(actual[:1], actual[:1])):
        assert few == Agreement(None, None)


CANCER = ["retrain.groups=3", "retrain.sizes=[0.1,0.3]"]


def test_resuming_retrains_what_is_missing_and_nothing_else(monkeypatch):
    whole = validate.run(config.load("breast-cancer", [*CANCER, "run.dir=whole"]), Silent(), resume=False)
    part = config.load("breast-cancer", ["retrain.groups=3", "retrain.sizes=[0.3]", "run.dir=parts"])
    validate.run(part, Silent(), resume=False)
    retrained, real = [], validate._retrained

    def counted(objective, lens, test, group, share, bar):
        retrained.append(share)
        return real(objective, lens, test, group, share, bar)

    monkeypatch.setattr(validate, "_retrained", counted)
    both = validate.run(config.load("breast-cancer", [*CANCER, "run.dir=parts"]), Silent(), resume=True)
    assert retrained == [0.1] * 3
    assert both.result.rows == whole.result.rows
    again = validate.run(config.load("breast-cancer", [*CANCER, "run.dir=parts"]), Silent(), resume=True)
    assert len(retrained) == 3
    assert again.result.rows == whole.result.rows


def test_panels_hold_what_the_rows_were_made_of():
    made = validate.run(config.load("breast-cancer", CANCER), Silent(), resume=False)
    for panel, rows in zip(made.panels, (made.result.rows[:3], made.result.rows[3:]), strict=True):
        assert {row.share for row in rows} == {panel.share}
        assert panel.removed.sum(1).tolist() == [rows[0].parameters] * 3
        for row in rows:
            assert row.loss == agreement(panel.change[row.form], panel.actual_change)
            kept = ~panel.removed
            assert row.kept == agreement(panel.shift[row.form][kept], panel.actual_shift[kept])
        assert_close(panel.shift["block"][panel.removed], panel.actual_shift[panel.removed])
        assert bool((panel.actual_change > 0).all())


def test_groups_whose_retraining_was_not_finished_are_left_out(monkeypatch):
    real, seen = validate.minimise, []

    def sometimes(*args, **kwargs):
        seen.append(1)
        return real(*args, **kwargs, max_iterations=0 if len(seen) == 2 else 100)

    monkeypatch.setattr(validate, "minimise", sometimes)
    found = validate.run(config.load("breast-cancer", CANCER), Silent(), resume=False).result
    assert found.unconverged == 1
    assert [row.groups for row in found.rows] == [2, 2, 2, 3, 3, 3]
