from itertools import pairwise

import pytest
import torch
from spectra import SIZE, definite, indefinite, singular, symmetric

from infprune.curvature.algebra import Damped, Dense
from infprune.errors import InputError
from infprune.solvers.spectrum import lanczos, largest


@pytest.mark.parametrize("make", [definite, indefinite])
@pytest.mark.parametrize("steps", [3, 8, 100])
def test_estimates_lie_inside_and_errors_hold(make, steps):
    H = make()
    values = torch.linalg.eigvalsh(H)
    found = lanczos(Dense(H), steps)
    assert found.iterations == min(steps, SIZE)
    assert values[0] - 1e-12 <= found.low <= found.high <= values[-1] + 1e-12
    for estimate, error in ((found.low, found.low_error), (found.high, found.high_error)):
        assert (values - estimate).abs().min() <= error + 1e-10
    if steps >= SIZE:
        assert found.low == pytest.approx(float(values[0]), abs=1e-10)
        assert found.high == pytest.approx(float(values[-1]), abs=1e-10)


def test_curing_cures():
    H = indefinite()
    found = lanczos(Dense(H), 12)
    assert found.curing > 1.0
    assert torch.linalg.eigvalsh(Damped(Dense(H), found.curing).to_dense())[0] > 0
    assert lanczos(Dense(definite())).curing == 0.0


def test_an_exhausted_space():
    """Two distinct eigenvalues: two steps find both; a start that is an eigenvector finds its own."""
    H = symmetric([2.0] * 5 + [-3.0] * 5)
    found = lanczos(Dense(H), 8)
    assert (found.low, found.high) == (pytest.approx(-3.0), pytest.approx(2.0))
    vector = torch.linalg.eigh(H).eigenvectors[:, 0]
    own = lanczos(Dense(H), 8, start=vector)
    assert (own.low, own.high) == (pytest.approx(-3.0), pytest.approx(-3.0))


def test_a_start_is_no_more_than_a_start():
    """From any direction the estimate is at most its own quotient, and all steps find the whole spectrum."""
    H = indefinite()
    values, Q = torch.linalg.eigh(H)
    start = Q[:, 0] + 0.3 * torch.randn(SIZE, dtype=torch.float64)
    quotient = float(start @ H @ start / (start @ start))
    lows = [lanczos(Dense(H), steps, start=start).low for steps in (1, 2, 5, SIZE)]
    assert lows[0] == pytest.approx(quotient)
    assert all(b <= a + 1e-12 for a, b in pairwise(lows))
    assert lows[-1] == pytest.approx(float(values[0]), abs=1e-10)


def test_estimates_and_errors_are_those_of_the_krylov_space():
    """Ritz values of span(b, H b, H^2 b, H^3 b), and the lengths of their residuals H y - theta y."""
    H, b = indefinite(), torch.randn(SIZE, dtype=torch.float64)
    K = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(H, k) @ b for k in range(4)], dim=1)).Q
    values, vectors = torch.linalg.eigh(K.T @ H @ K)
    Y = K @ vectors
    errors = (H @ Y - Y * values).norm(dim=0)
    found = lanczos(Dense(H), 4, start=b)
    assert (found.low, found.high) == pytest.approx((float(values[0]), float(values[-1])), rel=1e-8)
    assert (found.low_error, found.high_error) == pytest.approx((float(errors[0]), float(errors[-1])), rel=1e-6)


def test_semi_definite_curvature_is_cured_by_next_to_nothing():
    found = lanczos(Dense(singular()), 100)
    assert abs(found.low) < 1e-13
    assert found.high == pytest.approx(10.0)
    assert 0 <= found.curing < 1e-9


def test_more_steps_and_other_seeds():
    H = definite()
    errors = [lanczos(Dense(H), steps).low_error for steps in (3, 8, 14, SIZE)]
    assert errors == sorted(errors, reverse=True)
    assert lanczos(Dense(H), 5) == lanczos(Dense(H), 5)
    assert lanczos(Dense(H), 5, seed=1) != lanczos(Dense(H), 5)


def test_the_largest_eigenvalue_is_approached_from_below():
    for make in (definite, indefinite):
        found = largest(Dense(make()), 1000, 1e-6)
        assert 9.9 < found <= 10.0 + 1e-9
    assert largest(Dense(torch.zeros(3, 3, dtype=torch.float64))) == 0.0


def test_nan():
    H = torch.full((3, 3), float("nan"), dtype=torch.float64)
    for work in (lanczos, largest):
        with pytest.raises(InputError, match="not finite"):
            work(Dense(H))
