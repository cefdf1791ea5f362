"""Every curvature against its dense float64 definition."""

import pytest
import torch
from curved import EXACT, FULL, classified, objective, of, tanh_net, truth
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from cases import CASES
from infprune.curvature import CURVATURES, regularised
from infprune.curvature.algebra import Damped, Restricted
from infprune.curvature.fisher import fisher
from infprune.curvature.losses import SQUARED_ERROR, AnyLoss
from infprune.curvature.operator import LinearOperator, check_dense
from infprune.errors import ConfigError


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
@pytest.mark.parametrize("name", CASES)
def test_graphs_that_are_built_anew_give_the_same(name, curvature):
    o = objective(name)
    kept, rebuilt = CURVATURES[curvature](o), CURVATURES[curvature](o, None, 1)
    assert not kept._graphs.rebuilt
    assert rebuilt._graphs.rebuilt
    V = torch.randn(kept.shape[1], 2, dtype=torch.float64)
    assert_close(rebuilt.matmat(V), kept.matmat(V), **EXACT)
    assert torch.equal(rebuilt.matvec(V[:, 0]), kept.matvec(V[:, 0]))
    if curvature != "hessian" and len(V) < 300:  # per-sample Jacobians of one sample at a time
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


@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_ridge_is_on_the_diagonal(curvature):
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y, ridge=0.25)
    theta = o.theta + 0.1
    plain = CURVATURES[curvature](o, theta).to_dense()
    made = regularised(curvature, o, theta).to_dense()
    assert_close(made - plain, 0.25 * torch.eye(len(plain), dtype=plain.dtype), **EXACT)
    assert torch.equal(regularised(curvature, of(net, x, y), theta).to_dense(), plain)


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


@pytest.mark.parametrize("draws", [1, 3])
def test_the_fisher_is_the_mean_over_drawn_labels(draws):
    """All draws of a sample before the next one's; another seed is another matrix."""
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y)
    labels = reference.drawn_labels(net(x), 6, draws).reshape(draws, -1)
    truth = torch.stack([reference.fisher(net, x, drawn) for drawn in labels]).mean(0)
    made = fisher(o, seed=6, draws=draws)
    V = torch.randn(len(truth), 2, dtype=truth.dtype)
    assert_close(made.to_dense(), truth, **EXACT)
    assert_close(made.matmat(V), truth @ V, **EXACT)
    assert not torch.allclose(fisher(o, seed=7, draws=draws).to_dense(), truth, rtol=1e-2)


def test_the_fisher_tends_to_the_ggn():
    net, (x, y) = tanh_net(), classified()
    G = CURVATURES["ggn"](of(net, x, y)).to_dense()
    few, many = (fisher(of(net, x, y), draws=draws).to_dense() for draws in (10, 1000))
    assert (many - G).norm() < 0.05 * G.norm()
    assert (many - G).norm() < 0.5 * (few - G).norm()


class Shaped(nn.Module):
    """Outputs of one sample in another shape than a vector."""

    def __init__(self, *shape):
        super().__init__()
        self.net, self.shape = tanh_net(outputs=torch.Size(shape).numel()), shape

    def forward(self, x):
        return self.net(x).reshape(len(x), *self.shape)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 2, 2)])
@pytest.mark.parametrize("curvature", FULL)
def test_squared_error_of_outputs_of_any_shape(curvature, shape):
    """As of the same outputs in one row."""
    net, x = Shaped(*shape).double().eval(), torch.randn(9, 5, dtype=torch.float64)
    y = torch.randn(9, *shape, dtype=torch.float64)
    made = CURVATURES[curvature](of(net, x, y, loss=SQUARED_ERROR))
    flat = CURVATURES[curvature](of(net.net, x, y.flatten(1), loss=SQUARED_ERROR)).to_dense()
    V = torch.randn(len(flat), 2, dtype=torch.float64)
    assert_close(made.to_dense(), flat, **EXACT)
    assert_close(made.matmat(V), flat @ V, **EXACT)
    assert_close(made.matvec(V[:, 0]), flat @ V[:, 0], **EXACT)
    if curvature == "empirical-fisher":
        half = lambda z, t: 0.5 * (z - t).square().sum()  # noqa: E731
        assert_close(flat, reference.fisher(net.net, x, y.flatten(1), half), **EXACT)


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "empirical-fisher"])
def test_one_output_without_a_dimension(curvature):
    """Binary cross-entropy of logits `(N,)`: the Hessian of a linear model is its GGN, 1/N sum p (1 - p) x x^T."""
    net, x = Shaped().double().eval(), torch.randn(9, 5, dtype=torch.float64)
    net.net = nn.Linear(5, 1).double()
    y = (torch.arange(9) % 2).double()
    o = of(net, x, y, loss=AnyLoss(lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="none")))
    p, ones = net(x).sigmoid().detach(), torch.cat([x, torch.ones(9, 1).double()], 1)
    weight = (p - y).square() if curvature == "empirical-fisher" else p * (1 - p)
    truth = ones.T @ (weight[:, None] * ones) / 9
    made, V = CURVATURES[curvature](o), torch.randn(6, 2, dtype=torch.float64)
    assert_close(made.to_dense(), truth, **EXACT)
    assert_close(made.matmat(V), truth @ V, **EXACT)
    assert_close(made.matvec(V[:, 0]), truth @ V[:, 0], **EXACT)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_on_a_device(curvature, device):
    """float32 on the device against float64 on the CPU, at the same labels."""
    net, (x, y) = tanh_net(), classified()
    exact = CURVATURES[curvature](of(net, x, y)).to_dense()
    made = CURVATURES[curvature](of(net.float().to(device), x.float().to(device), y.to(device)))
    V = torch.randn(39, 2)
    found = made.matmat(V.to(device, made.dtype))
    assert found.device.type == made.device.type == device.type
    assert_close(found.cpu().double(), exact @ V.double(), rtol=1e-3, atol=1e-4)
    assert_close(made.to_dense().cpu().double(), exact, rtol=1e-3, atol=1e-5)


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


# --- limits -----------------------------------------------------------------------------------------------------------


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
