"""KFAC and EKFAC: exact where theory says so, closed forms against dense algebra."""

import pytest
import torch
from curved import EXACT, classified, of, tanh_net
from torch import nn
from torch.testing import assert_close

import reference
from cases import CASES, LABELS
from infprune.curvature import CURVATURES
from infprune.curvature.kfac import covered, ekfac, kfac
from infprune.curvature.losses import SQUARED_ERROR
from infprune.curvature.objective import Objective
from infprune.curvature.sweep import LabelSource
from infprune.errors import ArchitectureError

ONCE = [name for name in CASES if name not in ("reused", "tied")]


def linear_nets():
    x = torch.randn(9, 6, dtype=torch.float64)
    return {
        "linear": (nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)), x),
        "convolution": (
            nn.Sequential(nn.Unflatten(1, (2, 1, 3)), nn.Conv2d(2, 4, (1, 3)), nn.Flatten(), nn.Linear(4, 2)),
            x,
        ),
        "one group each": (
            nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 6, bias=False), nn.Flatten(), nn.Linear(4, 2)),
            x,
        ),
        "transposed": (
            nn.Sequential(nn.Unflatten(1, (6, 1)), nn.ConvTranspose1d(6, 3, 1), nn.Flatten(), nn.Linear(3, 2)),
            x,
        ),
    }


def own_blocks(o, dense):
    """The dense matrix with the blocks between different modules set to zero."""
    found = torch.zeros_like(dense)
    for module in {name.rpartition(".")[0] for name in o.space.names}:
        at = o.space.of_modules(module)
        found[at[:, None], at] = dense[at[:, None], at]
    return found


@pytest.mark.parametrize("make", [kfac, ekfac])
@pytest.mark.parametrize("name", linear_nets())
def test_exact_on_deep_linear_networks(name, make):
    """Squared error, one output position: G is the same for every sample, so G (x) A is the GGN's block."""
    net, x = linear_nets()[name]
    net = net.double().eval()
    o = of(net, x, torch.randn(9, 2, dtype=torch.float64), loss=SQUARED_ERROR)
    truth = own_blocks(o, CURVATURES["ggn"](o).to_dense())
    assert_close(make(o).to_dense(), truth, rtol=1e-10, atol=1e-12)


def kronecker_objective(name):
    module, x = CASES[name]()
    module, x = module.double().eval(), x.double()
    return Objective(module, covered(module)[0], [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])])


@pytest.mark.parametrize("name", ONCE)
def test_ekfac_has_the_ggns_diagonal_in_the_eigenbasis(name):
    o = kronecker_objective(name)
    made, G = ekfac(o), CURVATURES["ggn"](o).to_dense()
    block_diagonal = own_blocks(o, G)
    assert_close(made.to_dense().diagonal().sum(), G.diagonal().sum(), rtol=1e-9, atol=1e-12)  # one basis, one trace
    off = block_diagonal - made.to_dense()
    plain = block_diagonal - kfac(o).to_dense()
    assert off.norm() <= plain.norm() * (1 + 1e-12)  # the nearest matrix with these eigenvectors


@pytest.mark.parametrize("make", [kfac, ekfac])
@pytest.mark.parametrize("name", ["mlp", "grouped", "residual", "conv1d"])
def test_closed_forms_are_dense_algebra(name, make):
    o = kronecker_objective(name)
    made = make(o)
    dense = made.to_dense()
    eye = torch.eye(len(dense), dtype=dense.dtype)
    assert_close(made.diagonal(), dense.diagonal(), **EXACT)
    assert_close(made.damped(0.1).to_dense(), dense + 0.1 * eye, **EXACT)
    assert_close(made.inverse(0.1).to_dense(), torch.linalg.inv(dense + 0.1 * eye), rtol=1e-8, atol=1e-9)
    assert_close(dense, dense.T, **EXACT)


@pytest.mark.parametrize("labels", [LabelSource.MODEL, LabelSource.DATA])
def test_labels_of_one_layer(labels):
    """One input for all samples: A is constant, so G (x) A is the Fisher at these very labels."""
    net = nn.Linear(3, 4).double().eval()
    x = torch.randn(1, 3, dtype=torch.float64).expand(10, 3)
    y = torch.arange(10) % 4
    o = of(net, x, y, split=10)
    o = o.on([(x, y)])
    at = reference.drawn_labels(net(x), 5) if labels is LabelSource.MODEL else y
    assert_close(kfac(o, labels=labels, seed=5).to_dense(), reference.fisher(net, x, at), **EXACT)


def test_exact_labels_are_the_expectation_of_drawn_ones():
    net, (x, y) = tanh_net(), classified()
    o = of(net, x, y)
    exact = kfac(o).to_dense()
    drawn = torch.stack([kfac(o, labels=LabelSource.MODEL, seed=s).to_dense() for s in range(300)]).mean(0)
    assert (drawn - exact).norm() < 0.1 * exact.norm()
    assert (kfac(o, labels=LabelSource.MODEL).to_dense() - exact).norm() > 1e-3 * exact.norm()


def test_what_is_left_out_is_named():
    module, _ = CASES["residual"]()
    space, left = covered(module)
    assert "conv1.weight" in space.names
    assert "bn1.weight" in left
    assert set(left) | set(space.names) == {name for name, _ in module.named_parameters()}
    embedded = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(6, 2))
    assert covered(embedded)[1] == ("0.weight",)


def test_parameters_that_it_does_not_cover_are_refused():
    module, x = CASES["residual"]()
    o = of(module.double().eval(), x.double(), LABELS)
    with pytest.raises(ArchitectureError, match=r"KFAC covers .* not bn1.bias, bn1.weight"):
        kfac(o)
    net, (x, y) = tanh_net(), classified()
    with pytest.raises(ArchitectureError, match=r"not 0\.bias"):
        kfac(of(net, x, y, names=["0.bias", "2.weight"]))


def test_a_weight_without_its_bias():
    net, (x, y) = tanh_net(), classified()
    both, alone = kfac(of(net, x, y)), kfac(of(net, x, y, names=["0.weight"]))
    at = both.space.at("0.weight")
    assert_close(alone.to_dense(), both.to_dense()[at[:, None], at], **EXACT)


@pytest.mark.parametrize("name", ["reused", "tied"])
def test_modules_that_run_twice(name):
    o = kronecker_objective(name)
    assert float(kfac(o).diagonal().max()) > 0
    with pytest.raises(ArchitectureError, match="is called twice; EKFAC"):
        ekfac(o)
