from itertools import islice

import torch
from spectra import SIZE, definite, solved
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
    assert found.outcome is Outcome.INDEFINITE
    assert found.residual == 1.0
