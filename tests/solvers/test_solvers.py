"""What all solvers promise, and what each does with matrices it was not made for."""

import pytest
import torch
from spectra import SIZE, advised, definite, indefinite, singular, solved, symmetric
from torch.testing import assert_close

from infprune.curvature.algebra import Damped, Dense
from infprune.curvature.kfac import ekfac, kfac
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError, InputError
from infprune.solvers import SOLVERS
from infprune.solvers.contract import Outcome
from infprune.solvers.neumann import LiSSA, Neumann
from infprune.solvers.normal_cg import NormalCG

# a right-hand side apart, each with what it takes to come as close as this
SETTINGS = {
    "cholesky": ({}, 1e-9),
    "ldl": ({}, 1e-9),
    "cg": ({"rtol": 1e-10}, 1e-7),
    "lsmr": ({"rtol": 1e-12}, 1e-6),
    "landweber": ({"rtol": 1e-8, "max_iterations": 200_000}, 1e-5),
    "neumann": ({"rtol": 1e-9}, 1e-6),
    "lissa": ({"terms": 6000, "rtol": 1e-6}, 1e-3),
    "normal-cg": ({"rtol": 1e-11, "damping": 0.0}, 1e-6),
}


NORMAL = ("lsmr", "landweber")  # their residual is that of the normal equations


def made(name, **changes):
    return SOLVERS[name](**{**SETTINGS[name][0], **changes})


def problem(name):
    """A definite matrix; for Landweber, which takes the condition number squared of iterations, a rounder one."""
    return symmetric(torch.logspace(-0.25, 0.5, SIZE)) if name == "landweber" else definite()


def test_every_solver_is_tested():
    assert SETTINGS.keys() == SOLVERS.keys()


@pytest.mark.parametrize("name", SOLVERS)
def test_solutions_of_one_and_of_many(name):
    H, B = problem(name), torch.randn(SIZE, 3, dtype=torch.float64)
    truth, tolerance = torch.linalg.solve(H, B), SETTINGS[name][1]
    many = solved(made(name), H, B)
    assert (many.outcome, many.message) == (Outcome.CONVERGED, "")
    assert_close(many.value, truth, rtol=tolerance, atol=tolerance)
    one = solved(made(name), H, B[:, 1])
    assert one.value.shape == (SIZE,)
    assert_close(one.value, truth[:, 1], rtol=tolerance, atol=tolerance)
    assert_close(one.required(), one.value)
    assert many.iterations >= 1


@pytest.mark.parametrize("name", SOLVERS)
def test_the_residual_is_measured(name):
    H, b = problem(name), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name), H, b)
    gap = H @ found.value - b
    truth = (H @ gap).norm() / (H @ b).norm() if name in NORMAL else gap.norm() / b.norm()
    assert found.residual == pytest.approx(float(truth), rel=1e-3, abs=1e-14)


@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_is_solved_by_nothing(name):
    found = solved(made(name), definite(), torch.zeros(SIZE, dtype=torch.float64))
    assert found.converged
    assert_close(found.value, torch.zeros(SIZE, dtype=torch.float64))


@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_bytes_twice(name):
    H, b = problem(name), torch.randn(SIZE, dtype=torch.float64)
    assert torch.equal(solved(made(name), H, b).value, solved(made(name), H, b).value)


@pytest.mark.parametrize("name", ["ldl", "lsmr", "landweber", "normal-cg"])
def test_indefinite_curvature_is_solved(name):
    H, b = indefinite(), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name), H, b)
    assert found.converged
    assert_close(found.value, torch.linalg.solve(H, b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cholesky", "cg"])
def test_indefinite_curvature_is_told_with_its_cure(name):
    H, b = indefinite(), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name), H, b)
    assert found.outcome is Outcome.INDEFINITE
    damping = advised(found.message)
    assert 1.0 < damping < 1.5  # the least eigenvalue is -1
    cured = made(name).init(Damped(Dense(H), damping)).solve(b)
    assert cured.converged
    assert_close(cured.value, torch.linalg.solve(H + damping * torch.eye(SIZE).double(), b), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"indefinite.*add a damping above"):
        found.required()


@pytest.mark.parametrize("name", ["neumann", "lissa"])
def test_a_series_of_indefinite_curvature_diverges(name):
    H, b = indefinite(), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name), H, b)
    assert found.outcome is Outcome.DIVERGED
    assert "negative eigenvalue; add a damping" in found.message
    cured = made(name).init(Damped(Dense(H), 1.2)).solve(b)
    assert cured.converged
    assert_close(cured.value, torch.linalg.solve(H + 1.2 * torch.eye(SIZE).double(), b), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["cholesky", "ldl"])
def test_singular_curvature(name):
    H = symmetric([0.0, *[1.0] * (SIZE - 1)])
    H = torch.block_diag(torch.zeros(1, 1, dtype=H.dtype), H[1:, 1:])
    found = solved(made(name), H, torch.ones(SIZE, dtype=torch.float64))
    assert found.outcome is Outcome.SINGULAR
    assert 0 < advised(found.message) < 1e-4


@pytest.mark.parametrize("name", ["cholesky", "ldl", "cg"])
@pytest.mark.parametrize("rank", [1, 8, SIZE - 1])
def test_singular_curvature_is_told_with_its_cure(name, rank):
    """Semi-definite to rounding, not indefinite; the damping that is named is one to solve with."""
    H, b = singular(rank), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name), H, b)
    assert found.outcome is Outcome.SINGULAR
    damping, greatest = advised(found.message), float(torch.linalg.eigvalsh(H)[-1])
    assert 1e-6 <= damping / greatest < 1e-5
    cured = made(name).init(Damped(Dense(H), damping)).solve(b)
    assert cured.converged
    assert (H @ cured.value + damping * cured.value - b).norm() < 1e-5 * b.norm()


@pytest.mark.parametrize("name", ["cg", "lsmr", "normal-cg"])
def test_sides_in_the_range_of_singular_curvature(name):
    """They have a solution of least norm, and columns that are done early stay there while others go on."""
    H = singular()
    values, Q = torch.linalg.eigh(H)
    B = torch.stack([values[-1] * Q[:, -1], H @ torch.randn(SIZE, dtype=torch.float64)], dim=1)
    found = solved(made(name), H, B)
    assert found.converged
    assert_close(found.value, torch.linalg.pinv(H, rtol=1e-10) @ B, rtol=1e-4, atol=1e-5)
    assert_close(found.value[:, 0], Q[:, -1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lsmr", "normal-cg"])
def test_sides_outside_the_range_of_singular_curvature(name):
    """The least-squares solution of least norm, and a residual that tells what is left."""
    H, b = singular(), torch.randn(SIZE, dtype=torch.float64)
    found, truth = solved(made(name), H, b), torch.linalg.pinv(H, rtol=1e-10) @ b
    assert found.converged
    assert_close(found.value, truth, rtol=1e-4, atol=1e-5)
    if name == "normal-cg":
        assert found.residual == pytest.approx(float((H @ truth - b).norm() / b.norm()), rel=1e-5)


@pytest.mark.parametrize("name", ["neumann", "lissa"])
def test_a_series_outside_the_range_does_not_converge(name):
    found = solved(made(name), singular(), torch.randn(SIZE, dtype=torch.float64))
    assert found.outcome is Outcome.STOPPED
    assert found.residual > 0.1


@pytest.mark.parametrize("name", ["cg", "neumann"])
@pytest.mark.parametrize("rtol", [1e-2, 1e-5])
def test_the_tolerance_is_met_and_not_by_far(name, rtol):
    H, b = definite(), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name, rtol=rtol), H, b)
    assert found.converged
    assert 1e-3 * rtol < found.residual <= rtol * (1 + 1e-6)
    stopped = solved(made(name, rtol=rtol, max_iterations=found.iterations - 1), H, b)
    assert (stopped.outcome, stopped.iterations) == (Outcome.STOPPED, found.iterations - 1)  # one too few is too few
    assert stopped.residual > rtol


@pytest.mark.parametrize("name", SOLVERS)
def test_operators_of_float32(name):
    """To what rounding allows; the value has the operator's dtype, or that of the factorisation."""
    H, b = problem(name), torch.randn(SIZE, dtype=torch.float64)
    loose = {"cg": {"rtol": 1e-6}, "lsmr": {"rtol": 1e-6}, "neumann": {"rtol": 1e-5}, "normal-cg": {"rtol": 1e-5}}
    loose |= {"landweber": {"rtol": 1e-5}}
    found = made(name, **loose.get(name, {"rtol": 1e-3} if name == "lissa" else {})).init(Dense(H.float())).solve(b)
    assert found.converged, found
    assert found.value.dtype == (torch.float64 if name in ("cholesky", "ldl") else torch.float32)
    assert_close(found.value.double(), torch.linalg.solve(H, b), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["neumann", "lissa"])
def test_a_series_sees_the_one_great_eigenvalue_among_many(name):
    """A random start holds little of it, and power iteration seems to stand still before it is found."""

    class Spiked(Dense):
        def __init__(self, size):
            super().__init__(torch.ones(size, 1, dtype=torch.float64))
            self.matrix[0] = 5.0
            self.shape = (size, size)

        def matmat(self, V):
            return self.matrix * V

    operator = Spiked(1_000_000)
    settings = {"terms": 60, "rtol": 1e-3} if name == "lissa" else {"rtol": 1e-6}
    prepared = SOLVERS[name](**settings).init(operator)
    assert 5.0 <= prepared.scale < 5.5
    found = prepared.solve(torch.ones(1_000_000, dtype=torch.float64))
    assert found.converged
    assert_close(found.value, 1 / operator.matrix[:, 0], rtol=1e-3, atol=1e-3)


def test_a_series_that_overflows():
    found = solved(LiSSA(terms=20_000), indefinite(), torch.randn(SIZE, dtype=torch.float64))
    assert (found.outcome, found.residual) == (Outcome.DIVERGED, float("inf"))
    assert "negative eigenvalue" in found.message


@pytest.mark.parametrize("name", ["cg", "lsmr", "landweber", "neumann", "normal-cg"])
def test_out_of_iterations(name):
    H, b = definite(), torch.randn(SIZE, dtype=torch.float64)
    found = solved(made(name, max_iterations=3), H, b)
    assert found.outcome is Outcome.STOPPED
    assert found.iterations == 3
    assert "3" in found.message
    assert found.residual > 1e-6
    more = solved(made(name, max_iterations=6), H, b)
    assert (H @ more.value - b).norm() < (H @ found.value - b).norm() or name == "normal-cg"


@pytest.mark.parametrize("name", SOLVERS)
def test_nan(name):
    H, b = definite(), torch.randn(SIZE, dtype=torch.float64)
    broken = H.clone()
    broken[2, 3] = broken[3, 2] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        solved(made(name), broken, b)
    b[0] = float("inf")
    with pytest.raises(InputError, match="right-hand side"):
        solved(made(name), H, b)


def test_the_neumann_series_is_the_printed_one_scaled():
    """x_j = sum_i (I - H/s)^i b / s (MU eq. 6), s just above the largest eigenvalue."""
    H, b = definite(), torch.randn(SIZE, dtype=torch.float64)
    prepared = Neumann(max_iterations=4).init(Dense(H))
    assert 1.0 < prepared.scale / 10.0 < 1.06
    term, total = b / prepared.scale, torch.zeros_like(b)
    for _ in range(4):
        total, term = total + term, term - H @ term / prepared.scale
    found = prepared.solve(b)
    assert_close(found.value, total)
    assert found.residual == pytest.approx(float((H @ total - b).norm() / b.norm()))


def test_lissa_samples_the_parts():
    """With parts that differ the mean is approached; with more terms more closely."""
    A, D = definite(), symmetric(torch.linspace(-0.05, 0.05, SIZE))

    class Two(Dense):
        @property
        def parts(self):
            return (Dense(A + D), Dense(A - D))

    b = torch.randn(SIZE, dtype=torch.float64)
    errors = []
    for terms in (500, 8000):
        found = LiSSA(terms=terms, rtol=1.0, seed=3).init(Two(A)).solve(b)
        errors.append(float((found.value - torch.linalg.solve(A, b)).norm()))
    assert errors[1] < 0.5 * errors[0]
    truth = torch.linalg.solve(A, b)
    assert errors[1] < 0.05 * truth.norm()


def test_the_square_with_its_damping():
    """x = (H^2 + d I)^-1 H b (MS section 3.3)."""
    H, b, d = indefinite(), torch.randn(SIZE, dtype=torch.float64), 0.3
    found = solved(NormalCG(damping=d, rtol=1e-12), H, b)
    assert found.converged
    eye = torch.eye(SIZE, dtype=H.dtype)
    assert_close(found.value, torch.linalg.solve(H @ H + d * eye, H @ b), rtol=1e-7, atol=1e-9)
    assert found.residual == pytest.approx(float((H @ found.value - b).norm() / b.norm()), rel=1e-9)
    assert found.residual > 0.01


def test_a_square_without_an_inverse():
    """Below what rounding allows in the null space, the iteration says so."""
    found = solved(NormalCG(damping=0.0, rtol=1e-17), singular(), torch.randn(SIZE, dtype=torch.float64))
    assert found.outcome is Outcome.SINGULAR
    assert "H^2 has no inverse to rounding; raise its damping" in found.message


@pytest.mark.parametrize("make", [kfac, ekfac])
def test_closed_forms_of_kronecker_products(make):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double().eval()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 2
    operator = make(Objective(net, ParameterSpace.of(net), [(x, y)]))
    B, eye = torch.randn(len(operator.to_dense()), 2, dtype=torch.float64), torch.eye(23, dtype=torch.float64)
    truth = torch.linalg.solve(operator.to_dense() + 0.2 * eye, B)
    for inverse in (operator.inverse(0.2), operator.damped(0.05).inverse(0.15)):
        assert_close(inverse.matmat(B), truth)
    for name in ("cholesky", "cg", "lsmr"):
        assert_close(made(name).init(operator.damped(0.2)).solve(B).value, truth, rtol=1e-6, atol=1e-6)


def test_a_direct_solver_refuses_what_is_too_large():
    for name in ("cholesky", "ldl"):
        with pytest.raises(ConfigError, match="3,200 bytes"):
            SOLVERS[name](limit=1000).init(Dense(definite()))
