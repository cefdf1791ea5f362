"""KFAC and EKFAC: exact where theory says so, closed forms against dense algebra."""

from itertools import product

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
from infprune.curvature.space import ParameterSpace
from infprune.curvature.sweep import LabelSource
from infprune.errors import ArchitectureError

ONCE = [name for name in CASES if name not in ("reused", "tied")]


def linear_nets():
    x = torch.randn(40, 6, dtype=torch.float64)  # batches of 4 and 36: more than EKFAC takes at a time
    return {
        "linear": (nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2)), x),
        "convolution": (
            nn.Sequential(nn.Unflatten(1, (2, 1, 3)), nn.Conv2d(2, 4, (1, 3)), nn.Flatten(), nn.Linear(4, 2)),
            x,
        ),
        "without bias": (
            nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 6, bias=False), nn.Flatten(), nn.Linear(4, 2)),
            x,
        ),
        "grouped": (
            nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 2)),
            x,
        ),
        "depthwise": (
            nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(2, 2)),
            x,
        ),
        "transposed": (
            nn.Sequential(nn.Unflatten(1, (6, 1)), nn.ConvTranspose1d(6, 3, 1), nn.Flatten(), nn.Linear(3, 2)),
            x,
        ),
    }


def own_blocks(o, dense):
    """The dense matrix with the blocks between different modules, and groups of one, set to zero."""
    found = torch.zeros_like(dense)
    for name in {name.rpartition(".")[0] for name in o.space.names}:
        module = o.module.get_submodule(name)
        groups = getattr(module, "groups", 1)
        for outputs in torch.arange(len(module.weight) if groups > 1 else 1).chunk(groups):
            own = [n for n in o.space.names if n.rpartition(".")[0] == name]
            at = torch.cat([o.space.at(n, 0, outputs if groups > 1 else None) for n in own])
            found[at[:, None], at] = dense[at[:, None], at]
    return found


@pytest.mark.parametrize("make", [kfac, ekfac])
@pytest.mark.parametrize("name", linear_nets())
def test_exact_on_deep_linear_networks(name, make):
    """Squared error, one output position: G is the same for every sample, so G (x) A is the GGN's block."""
    net, x = linear_nets()[name]
    net = net.double().eval()
    o = of(net, x, torch.randn(40, 2, dtype=torch.float64), loss=SQUARED_ERROR)
    truth = own_blocks(o, CURVATURES["ggn"](o).to_dense())
    assert_close(make(o).to_dense(), truth, rtol=1e-10, atol=1e-12)


def kronecker_objective(name):
    module, x = CASES[name]()
    module, x = module.double().eval(), x.double()
    return Objective(module, covered(module)[0], [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])])


def eigenvectors(made):
    """One column for each eigenvalue, and the eigenvalues: `(P, P)`, `(P,)`, from nothing but single blocks."""
    vectors, values = [], []
    for block in made.blocks.values():
        for g, o, d in product(*map(range, block.values.shape)):
            one = torch.zeros_like(block.values)
            one[g] = torch.outer(block.outer[g, :, o], block.inner[g, :, d])
            scattered = made._scattered(block, one[None])
            zeros = {
                n: torch.zeros(s, dtype=one.dtype) for n, s in zip(made.space.names, made.space.shapes, strict=True)
            }
            vectors.append(made.space.join({**zeros, **{n: t[0] for n, t in scattered.items()}}))
            values.append(block.values[g, o, d])
    return torch.stack(vectors, dim=1), torch.stack(values)


@pytest.mark.parametrize("name", ONCE)
def test_ekfac_has_the_ggns_diagonal_in_the_eigenbasis(name):
    o = kronecker_objective(name)
    made, G = ekfac(o), CURVATURES["ggn"](o).to_dense()
    Q, values = eigenvectors(kfac(o))
    assert_close(Q.T @ Q, torch.eye(len(G), dtype=G.dtype), rtol=0, atol=1e-10)
    exact = (Q * (G @ Q)).sum(0)
    assert_close(eigenvectors(made)[1], exact, rtol=1e-9, atol=1e-12)
    assert (values - exact).norm() > 1e-3 * exact.norm()  # KFAC's own are others
    block_diagonal = own_blocks(o, G)
    assert_close(made.to_dense().diagonal().sum(), G.diagonal().sum(), rtol=1e-9, atol=1e-12)  # one basis, one trace
    off = block_diagonal - made.to_dense()
    plain = block_diagonal - kfac(o).to_dense()
    assert off.norm() <= plain.norm() * (1 + 1e-12)  # the nearest matrix with these eigenvectors


@pytest.mark.parametrize("make", [kfac, ekfac])
@pytest.mark.parametrize("name", ["mlp", "grouped", "separable", "conv1d", "sequence"])
def test_closed_forms_are_dense_algebra(name, make):
    o = kronecker_objective(name)
    made = make(o)
    dense = made.to_dense()
    eye = torch.eye(len(dense), dtype=dense.dtype)
    assert_close(made.diagonal(), dense.diagonal(), **EXACT)
    assert_close(made.damped(0.1).to_dense(), dense + 0.1 * eye, **EXACT)
    assert_close(made.inverse(0.1).to_dense(), torch.linalg.inv(dense + 0.1 * eye), rtol=1e-8, atol=1e-9)
    assert_close(dense, dense.T, **EXACT)
    assert torch.linalg.eigvalsh(dense)[0] > -1e-12
    twice = made.damped(0.1).inverse(0.2)
    assert_close(twice.diagonal(), torch.linalg.inv(dense + 0.3 * eye).diagonal(), rtol=1e-8, atol=1e-9)
    V = torch.randn(len(dense), 2, dtype=dense.dtype)
    assert_close(made.matmat(V), dense @ V, **EXACT)
    assert_close(made.matmat(V.float()).float(), (dense @ V).float(), rtol=1e-3, atol=1e-4)


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


class Tying(nn.Module):
    """A head whose weight is the table of an embedding, as in language models."""

    def __init__(self):
        super().__init__()
        self.table, self.mid, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mid(self.table(tokens))).mean(1))


class OwnBiases(nn.Module):
    """One weight, two biases."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def uncommon():
    """Networks, inputs, and what KFAC does not speak of."""
    x = torch.randn(6, 5, dtype=torch.float64)
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    transposed = nn.ConvTranspose1d(2, 4, 2, groups=2)
    return {
        "tied to an embedding": (Tying(), torch.randint(5, (6, 3)), {"table.weight"}),
        "own biases": (OwnBiases(), x, {"second.bias"}),
        "weight norm": (
            nn.Sequential(weighted, nn.Tanh(), nn.Linear(4, 3)),
            x,
            {"0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
        ),
        "grouped transposed": (
            nn.Sequential(nn.Conv1d(1, 2, 3), transposed, nn.Flatten(), nn.Linear(16, 3)),
            x[:, None],
            {"1.weight", "1.bias"},
        ),
    }


@pytest.mark.parametrize("name", uncommon())
def test_what_is_covered_can_be_had(name):
    """All names of `covered` at once, and an error in one line that names any other."""
    net, x, left = uncommon()[name]
    net, y = net.double().eval(), torch.arange(6) % 3
    space, found = covered(net)
    assert set(found) == left
    o = Objective(net, space, [(x, y)])
    made = kfac(o)
    assert made.shape == (space.size, space.size)
    assert float(made.diagonal().min()) >= 0
    assert float(made.diagonal()[space.at(space.names[-1])].max()) > 0
    with pytest.raises(ArchitectureError, match=f"KFAC covers .* not {min(left)}.*leave them out"):
        kfac(Objective(net, ParameterSpace.of(net), [(x, y)]))


def test_modules_that_are_never_called():
    """Zero would be right for an auxiliary head, and wrong for a weight that is used without its module."""
    net, (x, y) = tanh_net(), classified()
    net.add_module("3", nn.Identity())
    net[3].aux = nn.Linear(2, 2).double()
    o = of(net, x, y)
    for make in (kfac, ekfac):
        with pytest.raises(ArchitectureError, match=r"inputs of 3\.aux, which is not called"):
            make(o)
    kept = [n for n in o.space.names if "aux" not in n]
    assert_close(kfac(of(net, x, y, names=kept)).to_dense(), kfac(of(net[:3], x, y)).to_dense(), **EXACT)


@pytest.mark.parametrize("make", [kfac, ekfac])
@pytest.mark.parametrize("labels", LabelSource)
def test_the_network_is_left_as_it_was(make, labels):
    net, (x, y) = tanh_net(), classified()
    net[0].weight.requires_grad_(False)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    made = make(of(net, x, y), labels=labels)
    assert float(made.diagonal()[:20].max()) > 0
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert [p.grad for p in net.parameters()] == [None] * 4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with torch.no_grad():
        assert torch.equal(make(of(net, x, y), labels=labels).to_dense(), made.to_dense())


@pytest.mark.parametrize("make", [kfac, ekfac])
@pytest.mark.parametrize("labels", [LabelSource.EXACT, LabelSource.DATA])
def test_neither_batches_nor_the_order_of_samples_matter(make, labels):
    net, (x, y) = tanh_net(), classified()
    order = torch.randperm(len(y))
    made = make(of(net, x, y, split=4), labels=labels).to_dense()
    assert_close(make(of(net, x, y, split=9), labels=labels).to_dense(), made, rtol=1e-7, atol=1e-10)
    assert_close(make(of(net, x[order], y[order]), labels=labels).to_dense(), made, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["mlp", "residual", "sequence"])
@pytest.mark.parametrize("labels", [LabelSource.MODEL, LabelSource.DATA])
def test_ekfac_has_the_fishers_diagonal_in_the_eigenbasis(name, labels):
    o = kronecker_objective(name)
    drawn = labels is LabelSource.MODEL
    F = CURVATURES["fisher" if drawn else "empirical-fisher"](o).to_dense()
    Q, _ = eigenvectors(kfac(o, labels=labels))
    assert_close(eigenvectors(ekfac(o, labels=labels))[1], (Q * (F @ Q)).sum(0), rtol=1e-9, atol=1e-12)


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
