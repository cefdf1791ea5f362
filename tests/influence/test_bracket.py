"""Bounds: what holds whatever the steps, the dtype and the way to solve. After every step: test_theorem_forms."""

import pytest
import torch
from torch.testing import assert_close

import reference
from infprune.curvature.algebra import Damped, Dense
from infprune.curvature.gate_fisher import GateFisher
from infprune.influence.bracket import bracket
from infprune.influence.quadratic import Quadratic
from infprune.solvers import SOLVERS
from infprune.solvers.contract import Outcome

SIZE = 15
S = torch.tensor([0, 3, 4, 9, 14])


def problem(solver, **settings):
    """A spread-out spectrum, so that no step comes near the end by chance."""
    Q = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64)).Q
    H = Q * torch.logspace(0, 3, SIZE, dtype=torch.float64) @ Q.T
    theta = torch.randn(SIZE, dtype=torch.float64)
    return H, theta, Quadratic(Dense(H), theta, SOLVERS[solver](), 1.0, **settings)


@pytest.mark.parametrize("steps", [0, 1, 3, 40])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_the_upper_end_is_the_energy_of_the_shift_that_comes_with_it(solver, steps):
    H, theta, q = problem(solver, steps=steps, rtol=1e-9)
    found = bracket(q, S)
    assert torch.equal(found.shift[S], -theta[S])
    assert found.change == found.high == pytest.approx(float(0.5 * found.shift @ H @ found.shift), rel=1e-12)
    assert found.residual == pytest.approx(1 - found.low / found.high, abs=1e-15)
    if steps == 40:
        assert_close(found.shift, reference.block(H, theta, S.tolist())[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_wide_bracket_says_so(solver):
    narrow, wide = (bracket(problem(solver, steps=k, rtol=1e-6)[2], S) for k in (100, 2))
    assert (narrow.outcome, narrow.message) == (Outcome.CONVERGED, "")
    assert wide.outcome is Outcome.STOPPED
    assert wide.message.startswith("the bracket [")
    assert "wider than 1e-06; allow more iterations" in wide.message


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_it_stops_as_soon_as_it_is_narrow(solver):
    """A looser width is reached with fewer steps, and what is left is nearly all of what is allowed."""
    _, theta, q = problem(solver)
    widths = {}
    for rtol in (0.5, 0.05, 1e-3, 1e-6):
        found = bracket(Quadratic(q.operator, theta, q.solver, 1.0, rtol), S)
        widths[rtol] = 1 - found.low / found.high
        assert widths[rtol] <= rtol
    assert list(widths.values()) == sorted(widths.values(), reverse=True)
    assert widths[0.5] > 1e-3


def test_the_lower_end_is_half_theta_u_of_preconditioned_cg():
    """The dual, step by step: textbook CG with the diagonal of A, written out."""
    H, theta, _ = problem("cholesky")
    A, b = torch.linalg.inv(H)[S][:, S], theta[S]
    M = A.diagonal()
    u, r = torch.zeros_like(b), b.clone()
    p = z = r / M
    for steps in range(1, len(S) + 1):
        a = (r @ z) / (p @ A @ p)
        u, old = u + a * p, r @ z
        r = r - a * (A @ p)
        z = r / M
        p = z + (r @ z) / old * p
        found = bracket(Quadratic(Dense(H), theta, SOLVERS["cholesky"](), steps=steps, rtol=1e-13), S)
        assert found.low == pytest.approx(float(0.5 * b @ u), rel=1e-9)
    assert found.low == pytest.approx(float(reference.block(H, theta, S.tolist())[1]), rel=1e-9)


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_group_that_is_zero_already_costs_nothing(solver):
    _, theta, q = problem(solver)
    theta[S] = 0
    found = bracket(q, S)
    assert (found.low, found.high, found.change, found.outcome) == (0.0, 0.0, 0.0, Outcome.CONVERGED)
    assert torch.equal(found.shift, torch.zeros(SIZE, dtype=torch.float64))


def test_a_lower_floor_is_valid_and_wider():
    H, theta, q = problem("cg", steps=9, rtol=1e-9)
    truth = float(reference.block(H, theta, S.tolist())[1])
    lows = [bracket(Quadratic(q.operator, theta, q.solver, f, q.rtol, q.steps), S).low for f in (1.0, 0.3, 0.1)]
    assert truth >= lows[0] > lows[1] > lows[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_break_it(dtype):
    """The removed part alone costs 1e3 to 1e5 times what is left when the rest adapts: all digits of float32."""
    ratios = []
    for seed in range(40):
        torch.manual_seed(seed)
        size, N = (60, 600)[seed % 2], (20, 40, 200)[seed % 3]
        k = int(torch.randint(1, size - 1, ()))
        Z = (torch.randn(N, size) * torch.logspace(0, -2, size)).to(dtype)
        damping = float(torch.linalg.matrix_norm(Z, 2) ** 2 / N) * 10.0 ** -(2 + seed // 3 % 4)
        theta, chosen = torch.randn(size).to(dtype), torch.randperm(size)[:k]
        H = Z.double().T @ Z.double() / N + damping * torch.eye(size, dtype=torch.float64)
        d, truth = reference.retrained(H, theta.double(), chosen.tolist())
        found = bracket(Quadratic(Damped(GateFisher(Z), damping), theta, SOLVERS["cg"](), damping, steps=1000), chosen)
        assert found.low <= float(truth) * (1 + 1e-5)
        assert found.high >= float(truth) * (1 - 1e-5)
        assert found.high - found.low <= 0.1 * found.high
        own = torch.zeros_like(d)
        own[chosen] = theta[chosen].double()
        ratios.append(float(0.5 * own @ H @ own / truth))
    assert max(ratios) > 1e3
