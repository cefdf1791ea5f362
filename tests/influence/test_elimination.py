import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from infprune.influence.elimination import eliminate

EXACT = {"rtol": 1e-9, "atol": 1e-12}
PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)


def fisher(size, samples, seed, damping=1e-3):
    """Z^T Z / N + damping: random, positive definite, of low rank plus the damping if N < C."""
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(samples, size, dtype=torch.float64, generator=generator)
    Z = Z * torch.logspace(-1, 1, size, dtype=torch.float64)[torch.randperm(size, generator=generator)]
    return Z.T @ Z / samples + damping * torch.eye(size, dtype=torch.float64)


fishers = st.builds(fisher, size=st.integers(1, 9), samples=st.integers(2, 30), seed=st.integers(0, 10_000))


@PROPERTY
@given(F=fishers)
def test_every_step_is_solved_from_scratch(F):
    truth, order = reference.eliminated(F)
    found = eliminate(F)
    assert_close(found, truth, **EXACT)
    assert found.argsort(stable=True).tolist() == order or len(found.unique()) < len(found)


@PROPERTY
@given(F=fishers)
def test_the_first_to_go_is_the_cheapest_of_remark_2(F):
    alone = 0.5 / torch.linalg.inv(F).diagonal()
    found = eliminate(F)
    assert int(found.argmin()) == int(alone.argmin())
    assert_close(found.min(), alone.min(), **EXACT)


@PROPERTY
@given(F=fishers)
def test_the_last_to_go_completes_the_whole_quadratic(F):
    assert_close(eliminate(F).max(), 0.5 * F.sum(), **EXACT)


@PROPERTY
@given(F=fishers)
def test_scores_never_fall_below_zero_and_differ(F):
    found = eliminate(F).sort().values
    assert found[0] > 0
    assert bool((found.diff() > 0).all())


@PROPERTY
@given(F=fishers, data=st.data())
def test_names_of_the_gates_do_not_matter(F, data):
    order = torch.tensor(data.draw(st.permutations(range(len(F)))))
    assert_close(eliminate(F[order][:, order]), eliminate(F)[order], **EXACT)


@PROPERTY
@given(F=fishers, scale=st.floats(1e-3, 1e3))
def test_scores_scale_like_the_loss(F, scale):
    assert_close(eliminate(scale * F), scale * eliminate(F), rtol=1e-9, atol=0)


def test_a_diagonal_matrix_has_nothing_to_adapt():
    d = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    assert_close(eliminate(torch.diag(d)), torch.tensor([3.0, 0.5, 1.5], dtype=torch.float64), **EXACT)


def test_twins_cover_for_each_other():
    """Of two gates with the same gradients, one goes for nothing; without it the other is as dear as both were."""
    Z = torch.randn(50, 3, dtype=torch.float64)
    Z = torch.cat([Z, Z[:, :1]], dim=1)
    F = Z.T @ Z / 50 + 1e-9 * torch.eye(4, dtype=torch.float64)
    found = eliminate(F)
    cheap, dear = sorted([found[0].item(), found[3].item()])
    assert cheap == pytest.approx(0, abs=1e-8)
    assert dear > 0.1
    assert found.min() == cheap


def test_the_matrix_is_left_as_it_was():
    F = fisher(5, 20, 0)
    before = F.clone()
    eliminate(F)
    assert torch.equal(F, before)
