"""What the forms return where the solve behind them did not end well."""

import pytest
import torch

import reference
from infprune.curvature.algebra import Dense
from infprune.influence import FORMS
from infprune.influence.block import block
from infprune.influence.printed import printed
from infprune.influence.quadratic import Quadratic
from infprune.solvers import SOLVERS
from infprune.solvers.contract import Outcome

SIZE = 12
S = torch.tensor([2, 5, 6])


def spectrum(*values):
    Q = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64)).Q
    H = Q * torch.tensor(values, dtype=torch.float64) @ Q.T
    return 0.5 * (H + H.T)


def positive():
    return spectrum(*torch.logspace(-2, 2, SIZE).tolist())


def test_a_block_that_was_stopped_is_an_upper_bound_and_says_so():
    H, theta = positive(), torch.randn(SIZE, dtype=torch.float64)
    _, truth = reference.block(H, theta, S.tolist())
    changes = []
    for steps in (1, 3, 6, 100):
        found = block(Quadratic(Dense(H), theta, SOLVERS["cg"](rtol=1e-12, max_iterations=steps)), S)
        changes.append(found.change)
        assert torch.equal(found.shift[S], -theta[S])
        assert found.change >= float(truth) * (1 - 1e-9)
        if steps < 9:
            assert found.outcome is Outcome.STOPPED
            assert found.residual > 1e-6
            assert "allow more iterations" in found.message
    assert changes == sorted(changes, reverse=True)
    assert (found.outcome, found.message) == (Outcome.CONVERGED, "")
    assert found.change == pytest.approx(float(truth), rel=1e-9)


def test_a_printed_form_that_was_stopped_says_so():
    q = Quadratic(Dense(positive()), torch.randn(SIZE).double(), SOLVERS["cg"](rtol=1e-12, max_iterations=2))
    found = printed(q, S)
    assert found.outcome is Outcome.STOPPED
    assert "2 iterations" in found.message
    assert found.residual > 1e-6


@pytest.mark.parametrize("form", ["block", "paper"])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_a_saddle_has_no_value(form, solver):
    H = spectrum(*[-1.0] * 4, *[1.0] * 8)
    found = FORMS[form](Quadratic(Dense(H), torch.randn(SIZE).double(), SOLVERS[solver]()), S)
    assert found.outcome is Outcome.INDEFINITE
    named = float(found.message.partition("add a damping above ")[2].partition(",")[0])
    assert named == pytest.approx(1.1) if solver == "cholesky" else 0.5 < named < 1.2  # CG looks at a part of H


@pytest.mark.parametrize("form", ["block", "paper"])
def test_a_flat_direction_has_no_cholesky(form):
    """Rank 11: rounding decides the sign of the least eigenvalue, the outcome says that there is no solution."""
    H = torch.diag(torch.tensor([0.0, *[1.0] * (SIZE - 1)], dtype=torch.float64))
    found = FORMS[form](Quadratic(Dense(H), torch.randn(SIZE).double(), SOLVERS["cholesky"]()), S)
    assert found.outcome is Outcome.SINGULAR
    assert "add a damping" in found.message


@pytest.mark.parametrize("solver", ["cholesky", "cg", "lsmr", "ldl"])
@pytest.mark.parametrize("form", ["block", "paper"])
def test_a_group_that_is_zero_already_costs_nothing(form, solver):
    H, theta = positive(), torch.randn(SIZE, dtype=torch.float64)
    theta[S] = 0
    found = FORMS[form](Quadratic(Dense(H), theta, SOLVERS[solver]()), S)
    assert (found.change, found.outcome) == (0.0, Outcome.CONVERGED)
    assert torch.equal(found.shift, torch.zeros_like(theta))


def test_the_order_of_the_positions_does_not_matter():
    H, theta = positive(), torch.randn(SIZE, dtype=torch.float64)
    for solver in ("cholesky", "ldl"):
        q = Quadratic(Dense(H), theta, SOLVERS[solver]())
        for form in FORMS.values() if solver == "cholesky" else (block, printed):
            one, other = form(q, S), form(q, S.flip(0))
            assert one.change == pytest.approx(other.change, rel=1e-10)
            torch.testing.assert_close(one.shift, other.shift)
