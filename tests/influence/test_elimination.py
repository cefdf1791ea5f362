import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import reference
from infprune.influence import gate_elimination
from infprune.influence.column_elimination import STEPS, Reader, eliminate_columns
from infprune.influence.gate_elimination import eliminate_gates, eliminate_wide
from infprune.influence.kronecker import root

EXACT = {"rtol": 1e-8, "atol": 1e-12}
PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)


def fisher(size, samples, seed, damping=1e-3):
    """Z^T Z / N + damping: random, positive definite, of low rank plus the damping if N < C."""
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(samples, size, dtype=torch.float64, generator=generator)
    Z = Z * torch.logspace(-1, 1, size, dtype=torch.float64)[torch.randperm(size, generator=generator)]
    return Z.T @ Z / samples + damping * torch.eye(size, dtype=torch.float64)


fishers = st.builds(fisher, size=st.integers(1, 8), samples=st.integers(2, 30), seed=st.integers(0, 10_000))


gate_gradients = st.builds(
    lambda size, samples, seed: torch.randn(
        samples, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ),
    size=st.integers(1, 12),
    samples=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)


# --- gates ------------------------------------------------------------------------------------------------------------


def gates_gone(F):
    return lambda gone: float(reference.retrained(F, torch.ones(len(F), dtype=F.dtype), gone)[1])


@PROPERTY
@given(F=fishers)
def test_every_gate_is_solved_from_scratch(F):
    truth, order = reference.eliminated(gates_gone(F), len(F))
    found = eliminate_gates(F)
    assert_close(found, truth, **EXACT)
    assert found.argsort().tolist() == order


@PROPERTY
@given(F=fishers)
def test_the_first_gate_to_go_is_the_cheapest_of_remark_2(F):
    alone = 0.5 / torch.linalg.inv(F).diagonal()
    found = eliminate_gates(F)
    assert int(found.argmin()) == int(alone.argmin())
    assert_close(found.min(), alone.min(), **EXACT)


@PROPERTY
@given(F=fishers)
def test_the_last_gate_to_go_completes_the_whole_quadratic(F):
    assert_close(eliminate_gates(F).max(), 0.5 * F.sum(), **EXACT)


@PROPERTY
@given(F=fishers)
def test_totals_of_gates_rise(F):
    found = eliminate_gates(F).sort().values
    assert found[0] > 0
    assert bool((found.diff() > 0).all())


@PROPERTY
@given(F=fishers, data=st.data())
def test_names_of_the_gates_do_not_matter(F, data):
    order = torch.tensor(data.draw(st.permutations(range(len(F)))))
    assert_close(eliminate_gates(F[order][:, order]), eliminate_gates(F)[order], **EXACT)


@PROPERTY
@given(F=fishers, scale=st.floats(1e-3, 1e3))
def test_totals_of_gates_scale_like_the_loss(F, scale):
    assert_close(eliminate_gates(scale * F), scale * eliminate_gates(F), rtol=1e-9, atol=0)


@PROPERTY
@given(Z=gate_gradients, damping=st.floats(1e-3, 10), refresh=st.sampled_from([1, 3, 100]))
def test_without_the_matrix_the_totals_are_the_same(Z, damping, refresh):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_elimination, "REFRESH", refresh)
        found = eliminate_wide(Z, damping)
    F = Z.T @ Z / len(Z) + damping * torch.eye(Z.shape[1], dtype=torch.float64)
    assert_close(found, eliminate_gates(F), rtol=1e-8, atol=1e-10)


@PROPERTY
@given(Z=gate_gradients, together=st.integers(2, 5))
def test_totals_of_gates_that_go_together_are_those_of_their_order(Z, together):
    found = eliminate_wide(Z, 0.1, together)
    F = Z.T @ Z / len(Z) + 0.1 * torch.eye(Z.shape[1], dtype=torch.float64)
    order = found.argsort()
    truth = [gates_gone(F)(order[: i + 1].tolist()) for i in range(len(order))]
    assert_close(found[order], torch.tensor(truth, dtype=torch.float64), rtol=1e-8, atol=1e-10)


def test_rounding_does_not_add_up():
    Z = torch.randn(40, 400, dtype=torch.float64) * torch.logspace(-2, 1, 400, dtype=torch.float64)
    damping = 1e-4 * float(Z.square().mean())
    F = Z.T @ Z / len(Z) + damping * torch.eye(400, dtype=torch.float64)
    assert_close(eliminate_wide(Z, damping), eliminate_gates(F), rtol=1e-4, atol=0)


def test_a_diagonal_matrix_has_nothing_to_adapt():
    d = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    assert_close(eliminate_gates(torch.diag(d)), torch.tensor([3.0, 0.5, 1.5], dtype=torch.float64), **EXACT)


def test_twin_gates_cover_for_each_other():
    """Of two gates with the same gradients, one goes for nothing; without it the other is as dear as both were."""
    Z = torch.randn(50, 3, dtype=torch.float64)
    Z = torch.cat([Z, Z[:, :1]], dim=1)
    F = Z.T @ Z / 50 + 1e-9 * torch.eye(4, dtype=torch.float64)
    found = eliminate_gates(F)
    cheap, dear = sorted([found[0].item(), found[3].item()])
    assert cheap == pytest.approx(0, abs=1e-8)
    assert dear > 0.1
    assert found.min() == cheap


def test_the_matrix_is_left_as_it_was():
    F = fisher(5, 20, 0)
    before = F.clone()
    eliminate_gates(F)
    assert torch.equal(F, before)


# --- columns ----------------------------------------------------------------------------------------------------------


def weight(outputs, channels, width, seed):
    """One reader: W `(O, D)` with a bias column, A, G, and the columns of each channel in shuffled places."""
    generator = torch.Generator().manual_seed(seed)
    D = channels * width + 1
    W = torch.randn(outputs, D, dtype=torch.float64, generator=generator)
    W[:, -1] = 0  # the bias carries no channel
    columns = torch.randperm(D - 1, generator=generator).reshape(channels, width)
    return W, fisher(D, 3 * D, seed), fisher(outputs, 10, seed + 1), columns


def network(channels, shapes, seed):
    return [weight(outputs, channels, width, seed + i) for i, (outputs, width) in enumerate(shapes)]


networks = st.builds(
    network,
    channels=st.integers(1, 6),
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2),
    seed=st.integers(0, 10_000),
)


def found_prices(weights):
    return eliminate_columns([Reader(torch.linalg.inv(A), root(G, W), columns) for W, A, G, columns in weights])


def columns_gone(weights):
    """The dense quadratic of every reader, retrained with the entries of the channels pinned at zero."""

    def total(gone):
        change = 0.0
        for W, A, G, columns in weights:
            pinned = [o * len(A) + c for o in range(len(W)) for c in columns[gone].flatten().tolist()]
            change += float(reference.retrained(torch.kron(G, A), W.flatten(), pinned)[1])
        return change

    return total


@PROPERTY
@given(weights=networks)
def test_every_channel_is_priced_from_scratch(weights):
    channels = len(weights[0][3])
    assert_close(found_prices(weights), reference.prices(columns_gone(weights), channels), **EXACT)


@PROPERTY
@given(weights=networks)
def test_the_first_channel_to_go_is_the_cheapest_alone(weights):
    alone = sum(reference.block_costs(torch.linalg.inv(A), W.T @ G @ W, columns) for W, A, G, columns in weights)
    found = found_prices(weights)
    assert int(found.argmin()) == int(alone.argmin())
    assert_close(found.min(), alone.min(), **EXACT)


@PROPERTY
@given(weights=networks)
def test_prices_never_undercut_the_whole(weights):
    """They add up to the loss of removing everything, or to more where the running maximum was at work."""
    whole = columns_gone(weights)(list(range(len(weights[0][3]))))
    found = found_prices(weights)
    assert bool((found > 0).all())
    assert float(found.sum()) >= whole * (1 - 1e-9)


@PROPERTY
@given(weights=networks, data=st.data())
def test_names_of_the_channels_do_not_matter(weights, data):
    order = torch.tensor(data.draw(st.permutations(range(len(weights[0][3])))))
    renamed = [(W, A, G, columns[order]) for W, A, G, columns in weights]
    assert_close(found_prices(renamed), found_prices(weights)[order], **EXACT)


@PROPERTY
@given(weights=networks, scale=st.floats(1e-3, 1e3))
def test_prices_scale_like_the_loss(weights, scale):
    scaled = [(W, A, scale * G, columns) for W, A, G, columns in weights]
    assert_close(found_prices(scaled), scale * found_prices(weights), rtol=1e-9, atol=0)


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(("channels", "width"), [(7, 3), (2 * STEPS + 5, 1)])
def test_columns_that_stand_together_are_eliminated_in_place(channels, width, first):
    """Channels in order, as most weights read them: the same prices as in any other order, in the matrix itself."""
    W, A, G, _ = weight(3, channels + 4, width, 2)
    columns = first * width + torch.arange(channels * width).reshape(channels, width)
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
    inverse = torch.linalg.inv(A)
    shuffled, before = Reader(inverse.clone(), root(G, W), columns[order]), inverse.clone()
    found = eliminate_columns([Reader(inverse, root(G, W), columns)])
    assert_close(found[order], eliminate_columns([shuffled]), rtol=1e-9, atol=0)
    rows, cols = torch.meshgrid(*[columns.flatten()] * 2, indexing="ij")
    assert not torch.equal(inverse[rows, cols], before[rows, cols])
    inverse[rows, cols] = before[rows, cols]
    assert torch.equal(inverse, before)  # weights that other layers read as well need the rest


def test_readers_may_come_one_by_one():
    weights = network(5, [(2, 3), (3, 1)], 4)
    one_by_one = (Reader(torch.linalg.inv(A), root(G, W), columns) for W, A, G, columns in weights)
    assert torch.equal(eliminate_columns(one_by_one), found_prices(weights))


def test_columns_that_nobody_prunes_adapt_too():
    """Channels of another layer that the same weight reads: they stay and take over."""
    W, A, G, columns = weight(2, 5, 2, 0)
    pruned = [(W, A, G, columns[:3])]
    assert_close(found_prices(pruned), reference.prices(columns_gone(pruned), 3), **EXACT)
    alone = torch.cat([columns[:3].flatten(), torch.tensor([10])])
    moved = torch.arange(6).reshape(3, 2)
    assert bool((found_prices(pruned) < found_prices([(W[:, alone], A[alone][:, alone], G, moved)])).all())


def test_wide_layers_go_in_batches():
    """Above STEPS channels, several of the cheapest go in one round, each at its price alone in that round."""
    channels, batch, rounds = 2 * STEPS + 3, 3, 5
    W, A, G, columns = weight(3, channels, 1, 0)
    inverse = torch.linalg.inv(A)

    def total(gone):
        """1/2 tr(G W_C ([A^-1]_CC)^-1 W_C^T)"""
        C = columns[gone].flatten()
        return 0.5 * float(torch.einsum("op,oc,cp->", G, W[:, C], torch.linalg.solve(inverse[C][:, C], W[:, C].T)))

    gone, truth = [], []
    for _ in range(rounds):
        alive = [c for c in range(channels) if c not in gone]
        before = total(gone) if gone else 0.0
        costs = torch.tensor([total([*gone, c]) - before for c in alive], dtype=torch.float64)
        cheapest = costs.argsort()[:batch]
        truth += costs[cheapest].tolist()
        gone += [alive[i] for i in cheapest]
    found = found_prices([(W, A, G, columns)])
    assert found.argsort()[: len(gone)].tolist() == gone
    assert_close(found[gone], torch.tensor(truth, dtype=torch.float64).cummax(0).values, rtol=1e-7, atol=1e-12)


def test_twin_channels_cover_for_each_other():
    X = torch.randn(60, 4, dtype=torch.float64)
    X = torch.cat([X, X[:, :1], torch.ones(60, 1, dtype=torch.float64)], dim=1)
    A = X.T @ X / 60 + 1e-9 * torch.eye(6, dtype=torch.float64)
    W = torch.ones(1, 6, dtype=torch.float64)
    found = found_prices([(W, A, torch.ones(1, 1, dtype=torch.float64), torch.arange(5)[:, None])])
    cheap, dear = sorted([found[0].item(), found[4].item()])
    assert cheap == found.min() == pytest.approx(0, abs=1e-8)
    assert dear > found[1:4].min() > 0.1
