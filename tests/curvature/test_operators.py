"""Every curvature against its dense float64 definition."""

import pytest
import torch
from curved import EXACT, classified, objective, of, tanh_net, truth, whole
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from cases import CASES
from infprune.curvature import CURVATURES, regularised
from infprune.curvature.algebra import Damped, Dense, Restricted, Sum, principal
from infprune.curvature.gate_fisher import GateFisher
from infprune.curvature.graphs import Graphs, saved_bytes
from infprune.curvature.hessian import Hessian
from infprune.curvature.losses import SQUARED_ERROR, AnyLoss
from infprune.curvature.operator import LinearOperator, check_dense
from infprune.errors import ArchitectureError, ConfigError, InputError

FULL = ("hessian", "ggn", "fisher", "empirical-fisher")


@pytest.mark.parametrize("curvature", FULL)
@pytest.mark.parametrize("name", CASES)
def test_products_and_dense_matrices_are_the_definition(name, curvature):
    o = objective(name)
    H = truth(curvature, o)
    made = CURVATURES[curvature](o)
    assert made.shape == H.shape
    V = torch.randn(len(H), 3, dtype=H.dtype)
    assert_close(made.matmat(V), H @ V, **EXACT)
    assert_close(made.matvec(V[:, 0]), H @ V[:, 0], **EXACT)
    if curvature != "hessian" or len(H) < 300:  # a product per parameter
        assert_close(made.to_dense(), H, **EXACT)
    if len(H) < 300:
        assert_close(made.diagonal(), H.diagonal(), **EXACT)


@pytest.mark.parametrize("curvature", FULL)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_graphs_that_are_built_anew_give_the_same(name, curvature):
    o = objective(name)
    kept, rebuilt = CURVATURES[curvature](o), CURVATURES[curvature](o, None, 1)
    assert not kept._graphs.rebuilt
    assert rebuilt._graphs.rebuilt
    V = torch.randn(kept.shape[1], 2, dtype=torch.float64)
    assert_close(rebuilt.matmat(V), kept.matmat(V), **EXACT)
    assert torch.equal(rebuilt.matvec(V[:, 0]), kept.matvec(V[:, 0]))
    if curvature != "hessian":
        assert_close(rebuilt.to_dense(), kept.to_dense(), **EXACT)


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "empirical-fisher"])
def test_neither_batches_nor_the_order_of_samples_matter(curvature):
    net, (x, y) = tanh_net(), classified()
    order = torch.randperm(len(y))
    made = [CURVATURES[curvature](of(net, a, b, split=k)).to_dense() for a, b, k in ((x, y, 4), (x, y, 9))]
    made.append(CURVATURES[curvature](of(net, x[order], y[order], split=4)).to_dense())
    assert_close(made[1], made[0], **EXACT)
    assert_close(made[2], made[0], **EXACT)


@pytest.mark.parametrize("curvature", FULL)
def test_parts_average_to_the_whole(curvature):
    net, (x, y) = tanh_net(), classified(10)
    made = CURVATURES[curvature](of(net, x, y, split=5))
    parts = [p.to_dense() for p in made.parts]
    assert len(parts) == 2
    assert_close(torch.stack(parts).mean(0), made.to_dense(), **EXACT)
    damped = Restricted(Damped(made, 0.3), torch.arange(5), torch.arange(5))
    assert_close(torch.stack([p.to_dense() for p in damped.parts]).mean(0), damped.to_dense(), **EXACT)


@pytest.mark.parametrize("curvature", FULL)
def test_float32_stays_float32(curvature):
    net, (x, y) = tanh_net(), classified()
    exact = CURVATURES[curvature](of(net, x, y)).to_dense()
    single = CURVATURES[curvature](of(net.float(), x.float(), y))
    assert single.matvec(torch.ones(single.shape[1])).dtype == torch.float32
    assert single.to_dense().dtype == torch.float64
    assert_close(single.to_dense(), exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("curvature", [*FULL, "kfac", "ekfac"])
def test_the_same_bytes_twice(curvature):
    net, (x, y) = tanh_net(), classified()
    first, second = (CURVATURES[curvature](of(net, x, y)).to_dense() for _ in range(2))
    assert torch.equal(first, second)
    assert_close(first, first.T, **EXACT)
    assert float(first.abs().max()) > 1e-3


@pytest.mark.parametrize("curvature", FULL)
def test_some_parameters_are_a_block_of_all(curvature):
    net, (x, y) = tanh_net(), classified()
    o, part = of(net, x, y), of(net, x, y, names=["0.bias", "2.weight"])
    at = torch.cat([o.space.at("0.bias"), o.space.at("2.weight")])
    block = CURVATURES[curvature](o).to_dense()[at[:, None], at]
    assert_close(CURVATURES[curvature](part).to_dense(), block, **EXACT)


@pytest.mark.parametrize("curvature", [*FULL, "kfac", "ekfac"])
def test_another_point_without_touching_the_network(curvature):
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y)
    before, theta = o.theta, o.theta + 0.3 * torch.randn_like(o.theta)
    there = CURVATURES[curvature](o, theta).to_dense()
    assert torch.equal(o.theta, before)
    o.space.load(net, theta)
    assert_close(there, CURVATURES[curvature](o).to_dense(), **EXACT)
    assert not torch.allclose(there, CURVATURES[curvature](o, before).to_dense(), rtol=1e-3)


def test_the_ridge_is_on_the_diagonal():
    net, (x, y) = tanh_net(), classified()
    made = regularised("ggn", of(net, x, y, ridge=0.25)).to_dense()
    plain = regularised("ggn", of(net, x, y)).to_dense()
    assert_close(made - plain, 0.25 * torch.eye(len(plain), dtype=plain.dtype), **EXACT)


def test_squared_error():
    """The Hessian by torch.func, the GGN as 1/N sum J^T J."""
    net, x = tanh_net(), torch.randn(7, 5, dtype=torch.float64)
    y = torch.randn(7, 3, dtype=torch.float64)
    o = of(net, x, y, loss=SQUARED_ERROR)
    H = torch.autograd.functional.hessian(lambda t: 0.5 * (o.outputs(t, x) - y).square().sum(1).mean(), o.theta)
    assert_close(CURVATURES["hessian"](o).to_dense(), H, **EXACT)
    J = torch.autograd.functional.jacobian(lambda t: o.outputs(t, x), o.theta)
    G = torch.einsum("nkp,nkq->pq", J, J) / len(x)
    assert_close(CURVATURES["ggn"](o).to_dense(), G, **EXACT)
    assert not torch.allclose(H, G, rtol=1e-2)


def test_any_loss_has_a_curvature():
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y, loss=AnyLoss(lambda z, t: F.cross_entropy(z, t, reduction="none")))
    for curvature in ("ggn", "hessian", "empirical-fisher"):
        plain = CURVATURES[curvature](of(net, x, y))
        assert_close(CURVATURES[curvature](o).to_dense(), plain.to_dense(), **EXACT)
        V = torch.randn(plain.shape[0], 3, dtype=torch.float64)
        assert_close(CURVATURES[curvature](o).matmat(V), plain.matmat(V), **EXACT)
    for curvature in ("fisher", "kfac"):
        with pytest.raises(ConfigError, match="use curvature ggn"):
            CURVATURES[curvature](o)


def test_a_linear_loss_has_no_curvature():
    net, (x, y) = nn.Linear(5, 3).double().eval(), classified()
    o = of(net, x, y, loss=AnyLoss(lambda z, _: z.sum(1)))
    for curvature in ("hessian", "ggn"):
        assert_close(CURVATURES[curvature](o).to_dense(), torch.zeros(18, 18, dtype=torch.float64))


# --- algebra ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("samples", "gates"), [(4, 9), (9, 4), (6, 6)])
def test_gate_fisher_and_its_inverse(samples, gates):
    Z = matrix(samples, gates)
    F_ = Z.T @ Z / samples
    made = GateFisher(Z)
    assert_close(made.to_dense(), F_, **EXACT)
    assert_close(made.diagonal(), F_.diagonal(), **EXACT)
    eye = torch.eye(gates, dtype=Z.dtype)
    assert_close(made.inverse(0.1).to_dense(), torch.linalg.inv(F_ + 0.1 * eye), **EXACT)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_saved_bytes_grow_with_the_width_and_not_with_the_batch():
    def measured(width, count):
        net = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double().eval()
        x, y = classified(count)
        o = of(net, x, y)
        return saved_bytes(o, o.theta, x)

    assert measured(64, 8) == measured(64, 11)
    assert 64 * 8 <= measured(64, 8) <= 20 * 64 * 8  # the output of tanh at least, in bytes per sample
    assert 3 < measured(512, 8) / measured(128, 8) < 5


def test_graphs_keep_what_fits():
    net, (x, y) = tanh_net(), classified(12)
    o = of(net, x, y, split=6)
    one = 3 * saved_bytes(o, o.theta, x) * 6
    visits = []
    graphs = Graphs(o, o.theta, lambda _, a, __: visits.append(len(a)), 3, int(1.5 * one))
    assert len(visits) == 1
    assert [n for n, _ in graphs] == [6, 6]
    assert len(visits) == 2
    assert graphs.rebuilt


def test_a_dense_request_that_is_too_large_says_the_bytes():
    class Huge(LinearOperator):
        shape, dtype, device = (10**6, 10**6), torch.float64, torch.device("cpu")

        def matmat(self, _):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"8,000,000,000,000 bytes.*influence\.solver=cg"):
        Huge().to_dense()
    o = objective("mlp")
    with pytest.raises(ConfigError, match="matrix-free"):
        CURVATURES["ggn"](o).to_dense(limit=100)
    check_dense(10, 10, torch.float64, 800)
    with pytest.raises(ConfigError, match="880 bytes"):
        check_dense(10, 11, torch.float64, 879)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.BatchNorm1d(5), nn.Dropout(0.5)])
def test_train_mode_is_refused(kind):
    net = nn.Sequential(nn.Linear(5, 5), kind, nn.Linear(5, 3)).double()
    x, y = classified()
    with pytest.raises(ArchitectureError, match=r"^1: .*train mode.*call module.eval\(\)$"):
        of(net.train(), x, y)
    assert of(net.eval(), x, y).value(of(net, x, y).theta) > 0


def test_a_loss_that_is_not_differentiable():
    net, (x, y) = tanh_net(), classified()
    wrong = of(net, x, y, loss=AnyLoss(lambda z, t: (z.argmax(1) != t).double()))
    for make in (Hessian, CURVATURES["ggn"]):
        with pytest.raises(ConfigError, match="not differentiable"):
            make(wrong)
    with pytest.raises(ConfigError, match="not differentiable"):
        wrong.gradient(wrong.theta)


def test_a_loss_of_another_shape():
    net, (x, y) = tanh_net(), classified()
    with pytest.raises(ConfigError, match=r"one value per sample \(4,\), got shape \(\)"):
        Hessian(of(net, x, y, loss=AnyLoss(F.cross_entropy)))


def test_nan_in_the_weights():
    net, (x, y) = tanh_net(), classified()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    for make in (Hessian, CURVATURES["ggn"], CURVATURES["kfac"]):
        with pytest.raises(InputError, match="not finite"):
            make(of(net, x, y))


def test_no_samples():
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y).on([])
    for work in (lambda: Hessian(o), lambda: o.value(o.theta), lambda: o.gradient(o.theta)):
        with pytest.raises(InputError, match="at least one sample"):
            work()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.exp()


def test_an_operation_that_has_no_second_derivative():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(Once.apply(self.first(x)))

    x, y = classified()
    for make in (Hessian, CURVATURES["ggn"]):
        with pytest.raises(ArchitectureError, match="cannot be differentiated twice"):
            make(of(Net().double().eval(), x, y))


def test_value_gradient_and_jacobians():
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y, ridge=0.1)
    theta = o.theta
    loss = F.cross_entropy(net(x), y) + 0.05 * theta.square().sum()
    assert o.value(theta) == pytest.approx(loss.item(), rel=1e-12)
    gradient = torch.autograd.functional.jacobian(
        lambda t: F.cross_entropy(o.outputs(t, x), y) + 0.05 * t.square().sum(), theta
    )
    assert_close(o.gradient(theta), gradient, **EXACT)
    J = torch.autograd.functional.jacobian(lambda t: o.outputs(t, x), theta)
    assert_close(o.jacobians(theta, x), J, **EXACT)
    assert o.samples() == len(whole(o)[1])
