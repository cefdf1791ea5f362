import pytest
import torch
from torch.testing import assert_close

import reference
from infprune.influence import kronecker
from infprune.influence.kronecker import damped, inverse, invert, printed_scores, root

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def positive(size, *, condition=20.0):
    """A random positive definite matrix, far from diagonal."""
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    return basis * torch.logspace(0, float(torch.tensor(condition).log10()), size, dtype=torch.float64) @ basis.T


# O outputs, D columns (the last one of the bias), and the columns of each channel
SHAPES = {
    "one column each": (3, 5, [[0], [1], [2], [3]]),
    "kernels": (3, 7, [[0, 1], [2, 3], [4, 5]]),
    "spread out": (2, 7, [[0, 4, 2], [1, 5, 3]]),
    "one channel": (4, 5, [[0, 1, 2, 3]]),
    "one output": (1, 5, [[0, 1], [2, 3]]),
}


def problem(name):
    outs, D, columns = SHAPES[name]
    A, G = positive(D), positive(outs)
    return torch.randn(outs, D, dtype=torch.float64), A, G, torch.tensor(columns)


def block_scores(W, A, G, columns):
    """`reference.block_costs` of W, whose last column is the bias: it carries no channel, so its energy is zero."""
    channels = W.clone()
    channels[:, -1] = 0
    return reference.block_costs(inverse(A), channels.T @ G @ channels, columns)


def entries(columns, outs, D):
    """Where a channel's columns stand in vec(W), row after row."""
    return [o * D + c for o in range(outs) for c in columns.tolist()]


def truths(formula, name):
    W, A, G, columns = problem(name)
    H, theta = torch.kron(G, A), W.flatten()
    found = [formula(H, theta, entries(channel, *W.shape)) for channel in columns]
    return W, A, G, columns, torch.stack(found)


@pytest.mark.parametrize("name", SHAPES)
def test_the_exact_block_form_is_retraining(name):
    """The two references agree with each other: a free minimisation with the entries pinned at zero."""
    W, A, G, columns = problem(name)
    H, theta = torch.kron(G, A), W.flatten()
    for channel in columns:
        S = entries(channel, *W.shape)
        (moved, change), (refound, again) = reference.block(H, theta, S), reference.retrained(H, theta, S)
        assert_close(moved, refound, **EXACT)
        assert_close(change, again, **EXACT)
        assert_close(theta[S] + moved[S], torch.zeros(len(S), dtype=H.dtype), **EXACT)


@pytest.mark.parametrize("formula", [reference.block, reference.retrained])
@pytest.mark.parametrize("name", SHAPES)
def test_block_costs_are_the_dense_loss_changes(name, formula):
    W, A, G, columns, truth = truths(lambda *args: formula(*args)[1], name)
    assert_close(block_scores(W, A, G, columns), truth, **EXACT)


def lemma1(H, theta, S):
    w = torch.zeros_like(theta)
    w[S] = 1
    return reference.theorem1(H, theta, w)[2]


@pytest.mark.parametrize("name", SHAPES)
def test_printed_scores_are_lemma_1_on_the_dense_matrix(name):
    W, A, G, columns, truth = truths(lemma1, name)
    assert_close(printed_scores(W, inverse(A), inverse(G), columns), truth, **EXACT)


def test_one_parameter_is_remark_2():
    """O = 1 and one column: 1/2 theta_p^2 / [H^-1]_pp, on which both forms agree."""
    A, G, W = positive(5), positive(1), torch.randn(1, 5, dtype=torch.float64)
    columns = torch.arange(4)[:, None]
    truth = 0.5 * W[0, :4] ** 2 / torch.linalg.inv(torch.kron(G, A)).diagonal()[:4]
    assert_close(block_scores(W, A, G, columns), truth, **EXACT)
    assert_close(printed_scores(W, inverse(A), inverse(G), columns), truth, **EXACT)


def test_the_forms_agree_where_the_inverse_is_diagonal():
    A, G = torch.diag(torch.rand(6).double() + 0.5), torch.diag(torch.rand(3).double() + 0.5)
    W, columns = torch.randn(3, 6, dtype=torch.float64), torch.tensor([[0, 1], [2, 3]])
    printed = printed_scores(W, inverse(A), inverse(G), columns)
    assert_close(printed, block_scores(W, A, G, columns), **EXACT)


def test_the_forms_differ_on_a_correlated_block():
    """Two entries, correlation r in H^-1: block 1/2 theta^T A^-1 theta, printed theta replaced by its row sums."""
    r = 0.5
    H_inverse = torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)
    W, one = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    columns = torch.tensor([[0, 1]])
    assert_close(
        reference.block_costs(H_inverse, W.T @ W, columns), torch.tensor([1 / (1 - r)], dtype=torch.float64), **EXACT
    )
    assert_close(
        printed_scores(W, H_inverse, one, columns), torch.tensor([(1 - r) / (1 + r) ** 2], dtype=torch.float64), **EXACT
    )


@pytest.mark.parametrize("name", SHAPES)
def test_scores_scale_like_the_loss(name):
    W, A, G, columns = problem(name)
    block, printed = block_scores(W, A, G, columns), printed_scores(W, inverse(A), inverse(G), columns)
    a = 3.7
    assert_close(block_scores(W, A, a * G, columns), a * block, **EXACT)
    assert_close(block_scores(W, a * A, G, columns), a * block, **EXACT)
    assert_close(block_scores(a * W, A, G, columns), a**2 * block, **EXACT)
    assert_close(printed_scores(W, inverse(A), inverse(a * G), columns), a * printed, **EXACT)
    assert_close(printed_scores(W, inverse(a * A), inverse(G), columns), a * printed, **EXACT)


def test_weights_that_read_nothing_cost_nothing():
    W, A, G, columns = problem("kernels")
    W[:, columns[1]] = 0
    for scores in (block_scores(W, A, G, columns), printed_scores(W, inverse(A), inverse(G), columns)):
        assert scores[1] == 0
        assert min(scores[0], scores[2]) > 1e-3


# --- damped -----------------------------------------------------------------------------------------------------------


def added(matrix, damping):
    return damped(matrix, damping) - matrix


def identity(amounts, size):
    return torch.as_tensor(amounts, dtype=torch.float64)[:, None, None] * torch.eye(size, dtype=torch.float64)


def stack(*scales):
    return torch.stack([scale * positive(4) for scale in scales])


def test_damping_is_absolute():
    assert_close(added(stack(1.0, 100.0), 0.3), identity([0.3, 0.3], 4), rtol=1e-10, atol=1e-10)


def test_no_damping_given_is_a_ten_thousandth_of_the_mean_diagonal():
    matrices = stack(1.0, 100.0)
    means = matrices.diagonal(dim1=1, dim2=2).mean(1)
    assert_close(added(matrices, None), identity(1e-4 * means, 4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("damping", "amount"), [(None, 1.0), (0.0, 1.0), (0.3, 0.3)])
def test_a_zero_matrix_becomes_invertible(damping, amount):
    matrices = torch.stack([torch.zeros(4, 4, dtype=torch.float64), positive(4)])
    assert_close(added(matrices, damping)[0], identity([amount], 4)[0])


@pytest.mark.parametrize("damping", [None, 0.0, 1e-9])
@pytest.mark.parametrize(("size", "rank", "scale"), [(2, 1, 1.0), (6, 3, 100.0), (60, 20, 1e-6), (60, 1, 1e3)])
def test_singular_matrices_can_be_inverted(size, rank, scale, damping):
    """Dead and duplicated channels make A singular; damping 0 then adds what rounding needs, and no more."""
    rows = torch.randn(size, rank, dtype=torch.float64)
    singular = scale * (rows @ rows.T)[None]
    assert torch.isfinite(inverse(damped(singular, damping))).all()
    if damping == 0:
        assert_close(damped(singular, damping), singular, rtol=1e-12, atol=scale * 1e-10)


def test_inverse():
    H = stack(1.0, 5.0)
    assert_close(inverse(H) @ H, torch.eye(4, dtype=torch.float64).expand(2, 4, 4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (7, 4)])
def test_a_root_multiplies_to_the_energy(shape, monkeypatch):
    W = torch.randn(*shape, dtype=torch.float64)
    G = torch.randn(shape[0], 20, dtype=torch.float64)
    G = G @ G.T
    found = root(G, W)
    assert torch.equal(root(0 * G, W), 0 * found)
    assert found.shape == (min(shape), shape[1])
    assert_close(found.T @ found, W.T @ G @ W, rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(kronecker, "BLOCK", 2)
    assert_close(root(G, W.float()), root(G, W.float().double()), rtol=1e-12, atol=1e-12)  # widened in parts


def test_rounding_of_a_wide_sum_is_cured():
    """The largest eigenvalue, whose rounding counts, is the size times the mean."""
    size = 1200
    g = torch.randn(size, 1, dtype=torch.float64)
    G = g @ g.T
    G.diagonal().sub_(3e-5 * float(G.diagonal().mean()))
    W = torch.randn(size, 3, dtype=torch.float64)
    truth = (g.T @ W).T @ (g.T @ W)
    found = root(G, W)
    assert_close(found.T @ found, truth, rtol=1e-2, atol=1e-3 * float(truth.diagonal().max()))


def test_rounding_of_float32_sums_is_cured():
    g = torch.randn(40, 3)
    G = (g @ g.T).double()  # rank 3, with negative eigenvalues of rounding
    assert float(torch.linalg.eigvalsh(G)[0]) < -1e-7
    W = torch.randn(40, 60, dtype=torch.float64)
    found = root(G, W)
    assert_close(found.T @ found, W.T @ G @ W, rtol=1e-5, atol=1e-4 * float((W.T @ G @ W).diagonal().mean()))
    with pytest.raises(torch.linalg.LinAlgError):
        root(torch.diag(torch.tensor([1.0, -0.5])).double(), W[:2])


def test_inverting_takes_the_memory_of_the_matrix() -> None:
    A = torch.randn(2, 6, 9, dtype=torch.float64)
    H = A @ A.mT
    truth = torch.linalg.inv(H)
    assert_close(inverse(H), truth)
    found = invert(H)
    assert_close(found, truth)
    assert found.data_ptr() == H.data_ptr()
