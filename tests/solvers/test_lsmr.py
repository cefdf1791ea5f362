from itertools import pairwise

import pytest
import torch
from spectra import SIZE, indefinite
from torch.testing import assert_close

from infprune.curvature.algebra import Dense, Restricted
from infprune.solvers.contract import Outcome
from infprune.solvers.lsmr import LSMR
from infprune.solvers.normal_cg import NormalCG


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


def test_the_normal_residual_falls():
    """What LSMR promises and LSQR does not: |M^T r| falls with every iteration, down to the tolerance."""
    M, b = torch.randn(30, 20, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    found = [LSMR(1e-12, n).init(Dense(M, symmetric=False)).solve(b) for n in range(1, 40)]
    normal = [float((M.T @ (b - M @ f.value)).norm() / (M.T @ b).norm()) for f in found]
    assert all(f.residual == pytest.approx(n, rel=1e-6, abs=1e-13) for f, n in zip(found, normal, strict=True))
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(normal) if after > 1e-12)
    assert (found[3].outcome, found[3].iterations) == (Outcome.STOPPED, 4)
    assert found[-1].converged
    assert found[-1].iterations < 39


def test_damping_of_an_indefinite_matrix():
    """(H^2 + d^2 I)^-1 H b: the square of the damping, where `normal-cg` takes it as it is."""
    H, b, d = indefinite(), torch.randn(SIZE, dtype=torch.float64), 0.4
    found = LSMR(1e-13, damping=d).init(Dense(H)).solve(b)
    assert_close(found.value, torch.linalg.solve(H @ H + d**2 * torch.eye(SIZE).double(), H @ b), rtol=1e-7, atol=1e-9)
    other = NormalCG(d**2, 1e-12).init(Dense(H)).solve(b)
    assert_close(other.value, found.value, rtol=1e-6, atol=1e-8)


def test_columns_are_solved_apart():
    H, B = indefinite(), torch.randn(SIZE, 3, dtype=torch.float64)
    B[:, 1] = 0
    together = LSMR(1e-12).init(Dense(H)).solve(B)
    assert_close(together.value[:, 1], torch.zeros(SIZE, dtype=torch.float64))
    for i in (0, 2):
        assert torch.equal(together.value[:, i], LSMR(1e-12).init(Dense(H)).solve(B[:, i]).value)
