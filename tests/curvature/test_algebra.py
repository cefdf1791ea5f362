import pytest
import torch
from curved import EXACT, FULL, classified, of, tanh_net
from torch.testing import assert_close

from infprune.curvature import CURVATURES
from infprune.curvature.algebra import Damped, Dense, Restricted, Sum, principal
from infprune.curvature.hessian import Hessian


def matrix(rows, columns=None):
    return torch.randn(rows, columns or rows, dtype=torch.float64)


def test_blocks_are_rows_and_columns():
    M = matrix(7, 5)
    a, b = torch.tensor([4, 0, 2]), torch.tensor([3, 1])
    found = Restricted(Dense(M, symmetric=False), a, b)
    assert found.shape == (3, 2)
    assert_close(found.to_dense(), M[a][:, b], **EXACT)
    assert_close(found.T.to_dense(), M[a][:, b].T, **EXACT)
    assert_close(Restricted(Dense(M, symmetric=False), None, b).to_dense(), M[:, b], **EXACT)
    assert_close(Restricted(found, torch.tensor([2]), None).to_dense(), M[[2]][:, b], **EXACT)


def test_principal_blocks_are_symmetric_and_know_their_diagonal():
    M = matrix(6)
    M = M + M.T
    S = torch.tensor([5, 1, 2])
    found = principal(Damped(Dense(M), 0.5), S)
    assert found.T is found
    assert_close(Restricted(Dense(M), S, S.clone()).T.to_dense(), M[S][:, S], **EXACT)
    assert_close(found.to_dense(), M[S][:, S] + 0.5 * torch.eye(3, dtype=M.dtype), **EXACT)
    assert_close(found.diagonal(), M.diagonal()[S] + 0.5, **EXACT)


def test_sums_are_scaled_and_transposed():
    A, B = matrix(4, 3), matrix(4, 3)
    found = Sum([Dense(A, symmetric=False), Dense(B, symmetric=False)], [2.0, -0.5])
    assert_close(found.to_dense(), 2 * A - 0.5 * B, **EXACT)
    assert_close(found.T.to_dense(), (2 * A - 0.5 * B).T, **EXACT)
    square = Sum([Dense(matrix(4)), Dense(matrix(4))])
    assert_close(square.diagonal(), square.to_dense().diagonal(), **EXACT)


def test_several_losses_at_one_point():
    """The Hessian of a sum of losses on different data is the sum of their Hessians."""
    net, (x, y) = tanh_net(), classified(10)
    first, second = of(net, x[:5], y[:5], split=3), of(net, x[5:], y[5:], split=3)
    both = Sum([Hessian(first), Hessian(second)], [0.5, 0.5])
    assert_close(both.to_dense(), Hessian(of(net, x, y)).to_dense(), **EXACT)


def test_a_block_of_a_block_of_a_damped_matrix():
    """Positions of the inner block count within the outer one; the damping stays on the diagonal of the whole."""
    M = matrix(8)
    M = M + M.T
    S, inner = torch.tensor([6, 1, 3, 4]), torch.tensor([2, 0])
    found = principal(principal(Damped(Dense(M), 0.5), S), inner)
    at = torch.tensor([3, 6])
    truth = M[at][:, at] + 0.5 * torch.eye(2, dtype=M.dtype)
    assert_close(found.to_dense(), truth, **EXACT)
    assert_close(found.diagonal(), truth.diagonal(), **EXACT)
    between = Restricted(Damped(Dense(M), 0.5), torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert_close(between.to_dense(), M[:2, 1:3] + 0.5 * torch.eye(3, dtype=M.dtype)[:2, 1:], **EXACT)
    assert_close(between.T.to_dense(), between.to_dense().T, **EXACT)
    assert_close(between.diagonal(), between.to_dense().diagonal(), **EXACT)


@pytest.mark.parametrize("curvature", [*FULL, "kfac", "ekfac"])
def test_blocks_between_layers(curvature):
    """H_ab of two named layers, b's columns and a's rows; without a square's diagonal."""
    net, (x, y) = tanh_net(), classified()
    made = CURVATURES[curvature](of(net, x, y))
    space, dense = made.objective.space if curvature in FULL else made.space, made.to_dense()
    a = torch.cat([space.at("2.weight"), space.at("2.bias")])
    b = space.at("0.weight", 1, torch.tensor([3, 0]))
    found = Restricted(made, a, b)
    assert found.shape == (15, 8)
    assert_close(found.to_dense(), dense[a[:, None], b], **EXACT)
    V = matrix(15, 2)
    assert_close(found.T.matmat(V), dense[a[:, None], b].T @ V, **EXACT)
    assert_close(principal(made, a).diagonal(), dense.diagonal()[a], **EXACT)
    assert (dense[a[:, None], b].abs().max() < 1e-12) == (curvature in ("kfac", "ekfac"))


def test_the_parts_of_a_damped_sum():
    A, B = matrix(4), matrix(4)
    found = Damped(Sum([Dense(A), Dense(B)], [1.0, 3.0]), 0.25)
    assert_close(torch.stack([p.to_dense() for p in found.parts]).mean(0), found.to_dense(), **EXACT)
    assert_close(found.diagonal(), (A + 3 * B).diagonal() + 0.25, **EXACT)
