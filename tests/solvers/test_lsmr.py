import pytest
import torch
from spectra import SIZE, indefinite
from torch.testing import assert_close

from infprune.curvature.algebra import Dense, Restricted
from infprune.solvers.contract import Outcome
from infprune.solvers.lsmr import LSMR


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_the_least_squares_solution_of_least_norm(shape):
    M, b = torch.randn(*shape, dtype=torch.float64), torch.randn(shape[0], dtype=torch.float64)
    found = LSMR(rtol=1e-13).init(Dense(M, symmetric=False)).solve(b)
    assert found.outcome is Outcome.CONVERGED
    assert_close(found.value, torch.linalg.pinv(M) @ b, rtol=1e-6, atol=1e-8)


def test_damping_is_ridge():
    M, b, d = torch.randn(12, 7, dtype=torch.float64), torch.randn(12, 2, dtype=torch.float64), 0.7
    found = LSMR(rtol=1e-13, damping=d).init(Dense(M, symmetric=False)).solve(b)
    truth = torch.linalg.solve(M.T @ M + d**2 * torch.eye(7, dtype=M.dtype), M.T @ b)
    assert_close(found.value, truth, rtol=1e-7, atol=1e-9)
    assert found.residual < 1e-9


def test_columns_of_a_hessian():
    """argmin |H_{:,T} x - g|, what generalized influence functions ask for."""
    H, g = indefinite(), torch.randn(SIZE, dtype=torch.float64)
    T = torch.tensor([1, 4, 17])
    found = LSMR(rtol=1e-13).init(Restricted(Dense(H), None, T)).solve(g)
    assert_close(found.value, torch.linalg.lstsq(H[:, T], g[:, None]).solution[:, 0], rtol=1e-7, atol=1e-9)


def test_a_side_outside_the_range():
    M = torch.zeros(3, 2, dtype=torch.float64)
    M[0, 0] = 1
    found = LSMR().init(Dense(M, symmetric=False)).solve(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert found.converged
    assert_close(found.value, torch.zeros(2, dtype=torch.float64))
