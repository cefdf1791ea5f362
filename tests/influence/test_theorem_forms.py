"""Theorem 1 as printed, in its exact block form, and bracketed, against the dense references."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import reference
from infprune.curvature.algebra import Damped, Dense
from infprune.curvature.gate_fisher import GateFisher
from infprune.errors import ConfigError
from infprune.influence import FORMS
from infprune.influence.block import block
from infprune.influence.bracket import bracket
from infprune.influence.evaluation_change import evaluation_change
from infprune.influence.printed import correlation_load, printed
from infprune.influence.quadratic import Quadratic
from infprune.solvers import SOLVERS
from infprune.solvers.cg import ConjugateGradients, jacobi
from infprune.solvers.contract import Outcome

SIZE = 12
EXACT = {"rtol": 1e-8, "atol": 1e-10}
TIGHT = {"cholesky": {}, "ldl": {}, "cg": {"rtol": 1e-13}, "lsmr": {"rtol": 1e-14}}
GROUPS = {"one": [3], "some": [0, 5, 7, 11], "most": list(range(10)), "all": list(range(SIZE))}


def positive(size=SIZE, condition=30.0):
    Q = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    values = torch.logspace(0, torch.tensor(condition).log10().item(), size, dtype=torch.float64)
    return Q * values @ Q.T


def problem(name, solver="cholesky", **settings):
    H, theta = positive(), torch.randn(SIZE, dtype=torch.float64)
    made = SOLVERS[solver](**{**TIGHT[solver], **settings})
    return H, theta, torch.tensor(GROUPS[name]), Quadratic(Dense(H), theta, made, 1.0)


@pytest.mark.parametrize("solver", TIGHT)
@pytest.mark.parametrize("name", GROUPS)
def test_the_block_form_is_the_constrained_minimum(name, solver):
    H, theta, S, q = problem(name, solver)
    found = block(q, S)
    shift, change = reference.block(H, theta, S.tolist())
    again, same = reference.retrained(H, theta, S.tolist())
    assert_close(found.shift, shift, **EXACT)
    assert_close(found.shift, again, **EXACT)
    assert found.change == pytest.approx(float(change), rel=1e-8)
    assert found.change == pytest.approx(float(same), rel=1e-8)
    assert torch.equal(found.shift[S], -theta[S])  # pinned, not nearly
    assert found.outcome is Outcome.CONVERGED


@pytest.mark.parametrize("solver", TIGHT)
@pytest.mark.parametrize("name", GROUPS)
def test_the_printed_form(name, solver):
    H, theta, S, q = problem(name, solver)
    w = torch.zeros(SIZE, dtype=torch.float64)
    w[S] = 1
    shift, _, change = reference.theorem1(H, theta, w)
    found = printed(q, S)
    assert_close(found.shift, shift, rtol=1e-6, atol=1e-8)
    assert found.change == pytest.approx(float(change), rel=1e-6)


def test_one_parameter_is_remark_2():
    H, theta, S, q = problem("one")
    truth = 0.5 * float(theta[3] ** 2 / torch.linalg.inv(H)[3, 3])
    for form in FORMS.values():
        assert form(q, S).change == pytest.approx(truth, rel=1e-3)
    assert printed(q, S).change == pytest.approx(truth, rel=1e-12)
    assert_close(printed(q, S).shift, block(q, S).shift)


def test_the_forms_agree_on_diagonal_curvature_and_nowhere_else():
    diagonal = torch.diag(torch.rand(SIZE, dtype=torch.float64) + 0.5)
    theta, S = torch.randn(SIZE, dtype=torch.float64), torch.tensor(GROUPS["some"])
    q = Quadratic(Dense(diagonal), theta, SOLVERS["cholesky"]())
    assert_close(printed(q, S).shift, block(q, S).shift)
    _, _, S, q = problem("some")
    assert abs(printed(q, S).change / block(q, S).change - 1) > 0.01
    assert (printed(q, S).shift[S] + q.theta[S]).norm() > 0.01  # the printed form does not pin the group


def test_a_row_sum_of_zero_has_no_printed_value():
    """[H^-1]_SS = [[1, -1], [-1, 2]]: the first row sums to zero."""
    H = torch.linalg.inv(torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64))
    q = Quadratic(
        Dense(H), torch.ones(2, dtype=torch.float64), Exact(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]).double())
    )
    assert printed(q, torch.tensor([0, 1])).change == float("inf")


class Exact:
    """A solver that knows the inverse, without rounding."""

    def __init__(self, inverse):
        self.inverse = inverse

    def init(self, _):
        return self

    def solve(self, rhs):
        from infprune.solvers.contract import Solution  # noqa: PLC0415

        return Solution(self.inverse @ rhs, Outcome.CONVERGED, 1, 0.0)


def test_no_feasible_shift_costs_less():
    H, theta, S, q = problem("some")
    found = block(q, S)
    F = q.rest(S)
    for _ in range(50):
        d = found.shift.clone()
        d[F] += 0.1 * torch.randn(len(F), dtype=torch.float64)
        assert 0.5 * d @ H @ d > found.change
    assert q.energy(found.shift) == pytest.approx(found.change, rel=1e-10)
    assert q.theta is theta


def test_the_load_is_k_times_the_mean_correlation():
    H, _, S, q = problem("some")
    A = torch.linalg.inv(H)[S][:, S]
    pairs = [abs(float(A[i, j] / (A[i, i] * A[j, j]) ** 0.5)) for i in range(len(S)) for j in range(len(S)) if i != j]
    assert correlation_load(q, S) == pytest.approx(len(S) * sum(pairs) / len(pairs), rel=1e-10)
    assert correlation_load(q, S[:1]) == 0.0
    assert correlation_load(problem("some", "cg")[3], S) is None


# --- the bracket ------------------------------------------------------------------------------------------------------


def brackets(q, S, steps):
    return [bracket(replace(q, rtol=1e-12, steps=k), S) for k in range(steps)]


@pytest.mark.parametrize("name", ["one", "some", "most"])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_bounds_hold_after_every_step_and_close(name, solver):
    H, theta, S, q = problem(name, solver)
    _, truth = reference.block(H, theta, S.tolist())
    truth = float(truth)
    found = brackets(q, S, 16)
    lows, highs = torch.tensor([b.low for b in found]), torch.tensor([b.high for b in found])
    assert bool((lows <= truth * (1 + 1e-9)).all())
    assert bool((highs >= truth * (1 - 1e-9)).all())
    assert bool((lows.diff() >= 0).all())
    assert bool((highs.diff() <= 0).all())
    own = 0.5 * float(theta[S] @ H[S][:, S] @ theta[S])
    assert found[0].high == pytest.approx(own, rel=1e-12)
    assert found[-1].high - found[-1].low < 1e-6 * truth
    assert found[0].outcome is (Outcome.STOPPED if found[0].high > found[0].low else Outcome.CONVERGED)


@pytest.mark.parametrize("seed", range(20))
def test_random_brackets_hold(seed):
    torch.manual_seed(seed)
    size, k = 30, int(torch.randint(1, 30, ()))
    H = positive(size, 10.0 ** (1 + seed % 4))
    theta, S = torch.randn(size, dtype=torch.float64), torch.randperm(size)[:k]
    _, truth = reference.block(H, theta, S.tolist())
    for solver in ("cholesky", "cg"):
        found = bracket(Quadratic(Dense(H), theta, SOLVERS[solver](), 1.0, rtol=0.05), S)
        assert found.low <= float(truth) * (1 + 1e-9)
        assert found.high >= float(truth) * (1 - 1e-9)
        assert found.high - found.low <= 0.05 * found.high
        assert found.outcome is Outcome.CONVERGED
        assert found.change == found.high


def test_all_parameters_leave_nothing_to_adapt():
    H, theta, S, q = problem("all", "cg")
    found = bracket(q, S)
    assert found.low == found.high == pytest.approx(0.5 * float(theta @ H @ theta))
    assert torch.equal(found.shift, -theta)


def test_nothing_is_certain_without_a_floor():
    _, theta, S, q = problem("some", "cg")
    for floor in (None, 0.0):
        with pytest.raises(ConfigError, match=r"semi-definite curvature with a positive damping"):
            bracket(Quadratic(q.operator, theta, q.solver, floor), S)


def test_gates():
    """Theorem 1 in gate space: theta = 1, F = Z^T Z / N, with the diagonal known and without a dense matrix."""
    Z, S = torch.randn(9, SIZE, dtype=torch.float64), torch.tensor(GROUPS["some"])
    operator = Damped(GateFisher(Z), 0.2)
    theta = torch.ones(SIZE, dtype=torch.float64)
    H = Z.T @ Z / 9 + 0.2 * torch.eye(SIZE, dtype=torch.float64)
    _, truth = reference.block(H, theta, S.tolist())
    for solver in (SOLVERS["cholesky"](), ConjugateGradients(1e-12, 100, jacobi)):
        assert block(Quadratic(operator, theta, solver, 0.2), S).change == pytest.approx(float(truth), rel=1e-8)


def test_evaluation_functions():
    """f = exp(a^T theta): first and second order along the shift, by finite differences."""
    a, theta, shift = (torch.randn(4, dtype=torch.float64) for _ in range(3))

    def f(t):
        return float((a @ t).exp())

    gradient = a * f(theta)
    eps = 1e-4
    first, second = (
        evaluation_change(gradient, shift),
        evaluation_change(gradient, shift, Dense(torch.outer(a, gradient))),
    )
    assert first == pytest.approx((f(theta + eps * shift) - f(theta - eps * shift)) / (2 * eps), rel=1e-6)
    bend = (f(theta + eps * shift) + f(theta - eps * shift) - 2 * f(theta)) / eps**2
    assert second - first == pytest.approx(0.5 * bend, rel=1e-4)
