from itertools import islice

import torch
from spectra import SIZE, advised, definite, indefinite, singular, solved
from torch.testing import assert_close

from infprune.curvature import regularised
from infprune.curvature.algebra import Dense
from infprune.curvature.kfac import kfac
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.solvers.cg import ConjugateGradients, iterates, jacobi
from infprune.solvers.contract import Outcome


def test_the_quadratic_falls_and_the_product_rises():
    H, b = definite(), torch.randn(SIZE, dtype=torch.float64)
    states = list(islice(iterates(Dense(H), b[:, None]), SIZE + 1))
    X = torch.stack([s.X[:, 0] for s in states])
    quadratic = 0.5 * ((X @ H) * X).sum(1) - X @ b
    product = 0.5 * X @ b
    assert bool((quadratic.diff() <= 1e-12).all())
    assert bool((product[:10].diff() > 0).all())  # until rounding costs the directions their conjugacy
    assert_close(product[-1], 0.5 * b @ torch.linalg.solve(H, b), rtol=1e-4, atol=0)
    for s in states:
        assert_close(s.R[:, 0], b - H @ s.X[:, 0], rtol=1e-8, atol=1e-9)


def test_columns_are_solved_apart():
    H, B = definite(), torch.randn(SIZE, 4, dtype=torch.float64)
    B[:, 1] = 0
    B[:, 2] *= 1e-8
    together = solved(ConjugateGradients(1e-11), H, B)
    for i in range(4):
        assert_close(together.value[:, i], solved(ConjugateGradients(1e-11), H, B[:, i]).value, rtol=1e-7, atol=1e-15)


def test_jacobi_undoes_bad_scales():
    scales = torch.logspace(-3, 3, SIZE, dtype=torch.float64)
    H = scales.sqrt()[:, None] * (definite() * 0.02 + torch.eye(SIZE).double()) * scales.sqrt()
    b = torch.randn(SIZE, dtype=torch.float64)
    plain, scaled = (solved(ConjugateGradients(1e-9, 2000, preconditioner), H, b) for preconditioner in (None, jacobi))
    assert scaled.outcome is Outcome.CONVERGED
    assert scaled.iterations < 0.5 * plain.iterations
    assert_close(scaled.value, torch.linalg.solve(H, b), rtol=1e-5, atol=1e-8)


def test_kfac_preconditions():
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double().eval()
    x, y = 5 * torch.randn(60, 6, dtype=torch.float64), torch.arange(60) % 3
    o = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=1e-3)
    operator, b = regularised("ggn", o), torch.randn(o.space.size, dtype=torch.float64)
    plain = ConjugateGradients(1e-8, 2000).init(operator).solve(b)
    better = ConjugateGradients(1e-8, 2000, lambda _: kfac(o).inverse(1e-3)).init(operator).solve(b)
    assert plain.converged
    assert better.converged
    assert better.iterations < plain.iterations
    assert_close(better.value, plain.value, rtol=1e-4, atol=1e-3)


def test_zero_curvature_is_no_solution():
    H = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    found = solved(ConjugateGradients(), H, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert found.outcome is Outcome.SINGULAR
    assert found.residual == 1.0


def test_the_direction_is_one_of_negative_curvature():
    H, b = indefinite(), torch.randn(SIZE, dtype=torch.float64)
    *before, last = iterates(Dense(H), b[:, None])
    assert all(state.negative is None for state in before)
    assert last.negative @ H @ last.negative < 0
    assert torch.equal(last.X, before[-1].X)


def test_iterates_end_when_no_column_moves():
    H = singular()
    values, Q = torch.linalg.eigh(H)
    one = Q[:, -1:]
    *_, last = iterates(Dense(H), torch.cat([torch.zeros_like(one), one], dim=1), rtol=1e-12)
    assert last.negative is None
    assert_close(last.X[:, 1], one[:, 0] / values[-1], rtol=1e-10, atol=1e-12)
    *states, last = iterates(Dense(H), torch.randn(SIZE, 1, dtype=torch.float64))
    assert last.negative is not None
    quotient = (last.negative @ H @ last.negative) / last.negative.square().sum()
    assert abs(float(quotient)) < 1e-13
    assert 8 <= len(states) < 40


def test_columns_that_have_converged_stay_where_they_are():
    H, B = definite(), torch.randn(SIZE, 2, dtype=torch.float64)
    B[:, 0] = torch.linalg.eigh(H).eigenvectors[:, 3]
    states = list(iterates(Dense(H), B, rtol=1e-9))
    assert len(states) > 10
    assert not torch.equal(states[1].X[:, 0], states[0].X[:, 0])
    assert all(torch.equal(state.X[:, 0], states[1].X[:, 0]) for state in states[2:])


def test_several_sides_of_which_one_meets_negative_curvature():
    """Told, although the other side never leaves the positive part."""
    H = indefinite()
    values, Q = torch.linalg.eigh(H)
    found = solved(ConjugateGradients(), H, torch.stack([Q[:, -1] * values[-1], Q[:, 0]], dim=1))
    assert found.outcome is Outcome.INDEFINITE
    assert advised(found.message) > 1.0


def test_no_iterations_give_no_value():
    H, b = definite(), torch.randn(SIZE, dtype=torch.float64)
    found = solved(ConjugateGradients(max_iterations=0), H, b)
    assert (found.outcome, found.iterations, found.residual) == (Outcome.STOPPED, 0, 1.0)
    assert_close(found.value, torch.zeros_like(b))


def test_a_preconditioner_changes_the_path_and_not_the_end():
    """The inverse itself needs one step; any positive one leads to the same solution."""
    H, B = definite(), torch.randn(SIZE, 2, dtype=torch.float64)
    truth = torch.linalg.solve(H, B)
    exact = solved(ConjugateGradients(1e-8, 50, lambda _: Dense(torch.linalg.inv(H))), H, B)
    assert exact.converged
    assert exact.iterations == 1
    some = solved(ConjugateGradients(1e-10, 500, lambda _: Dense(definite())), H, B)
    for found in (exact, some):
        assert_close(found.value, truth, rtol=1e-6, atol=1e-7)


def test_scales_far_apart_are_no_singularity_with_jacobi():
    """Curvature counts as zero by the preconditioned quotient: 1e-16 of the steepest is solved here."""
    scales = torch.logspace(-8, 8, SIZE, dtype=torch.float64)
    H = scales.sqrt()[:, None] * (definite() * 0.02 + torch.eye(SIZE).double()) * scales.sqrt()
    x = torch.randn(SIZE, dtype=torch.float64) / scales.sqrt()
    found = solved(ConjugateGradients(1e-12, 500, jacobi), H, H @ x)
    assert found.converged
    assert_close(found.value[-5:], x[-5:], rtol=1e-6, atol=0)
