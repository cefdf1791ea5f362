"""What graphs weigh, and that no more of them are kept than may be."""

from itertools import chain

import pytest
import torch
from curved import classified, objective, of, tanh_net, whole
from torch import nn
from torch.testing import assert_close

from cases import CASES
from infprune.curvature.ggn import ggn
from infprune.curvature.graphs import Graphs, saved_bytes
from infprune.curvature.hessian import Hessian

WIDE = 8  # bytes of a float64


def forward_bytes(width, count):
    net = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double()
    x, _ = classified(count)
    return saved_bytes(lambda: net(x), net.parameters())


@pytest.mark.parametrize("width", [1, 64, 512])
def test_what_a_forward_pass_saves(width):
    """The input, and the output of tanh: once, though tanh and the layer after it both save it."""
    assert forward_bytes(width, 11) == WIDE * 11 * (5 + width)


def test_what_is_freed_meanwhile_is_not_counted_twice():
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    assert saved_bytes(lambda: x.exp().exp(), [x]) == WIDE * 200
    assert saved_bytes(x.square, [x]) == 0
    assert saved_bytes(x.square, []) == WIDE * 100
    assert saved_bytes(lambda: x.detach().exp(), []) == 0


@pytest.mark.parametrize("make", [Hessian, ggn])
def test_the_estimate_depends_on_the_width_and_not_on_the_batch(make):
    def per_sample(width, count):
        net = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double().eval()
        return make(of(net, *classified(count)))._graphs.per_sample

    assert per_sample(64, 8) == per_sample(64, 30)
    a, b, c = (per_sample(width, 8) for width in (100, 200, 300))
    assert c - b == b - a > 100 * WIDE


@pytest.mark.parametrize("make", [Hessian, ggn])
@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_what_a_whole_batch_saves(name, make):
    o = objective(name)
    made, (x, y) = make(o), whole(o)
    leaf = o.theta.requires_grad_()
    held = chain([leaf], o.module.parameters(), o.module.buffers())
    truth = saved_bytes(lambda: made._graphs._build(leaf, x.clone(), y), held)
    estimate = made._graphs.per_sample * len(y)
    assert truth <= estimate <= 1.2 * truth + 1000  # what does not grow with the batch is counted per sample


@pytest.mark.parametrize("make", [Hessian, ggn])
@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.76, 2), (0.99, 2), (1.0, 3), (9.0, 3)])
def test_graphs_keep_what_fits(make, share, kept):
    """Batches of 6, 3 and 3 samples, a memory of this share of their graphs."""
    net, (x, y) = tanh_net(), classified(12)
    o = of(net, x, y).on([(x[:6], y[:6]), (x[6:9], y[6:9]), (x[9:], y[9:])])
    plain = make(o)
    made = make(o, None, int(share * 12 * plain._graphs.per_sample))
    assert len(made._graphs._kept) == kept
    assert made._graphs.rebuilt == (kept < 3)
    assert [n for n, _ in made._graphs] == [6, 3, 3]
    V = torch.randn(len(o.theta), 2, dtype=torch.float64)
    assert_close(made.matmat(V), plain.matmat(V), rtol=1e-12, atol=1e-14)


def test_kept_graphs_are_not_built_again():
    net, (x, y) = tanh_net(), classified(12)
    o, visits = of(net, x, y, split=8), []

    def build(leaf, x, y):
        visits.append(len(y))
        return o.outputs(leaf, x)

    graphs = Graphs(o, o.theta, build)
    for _ in range(2):
        assert [n for n, _ in graphs] == [8, 4]
    assert visits == [2, 8, 4]  # two samples to measure
    visits.clear()
    graphs = Graphs(o, o.theta, build, graphs.per_sample * 8)
    for _ in range(2):
        assert [n for n, _ in graphs] == [8, 4]
    assert visits == [2, 8, 4, 4]


def test_blocks_of_products_fit_the_memory():
    """Also where no graph is kept: a column takes what a batch takes."""
    net, (x, y) = tanh_net(), classified(12)
    o = of(net, x, y, split=2)
    for share in (0.5, 1.0, 7.9, 100.0):
        column = 10 * Hessian(o)._graphs.per_sample + len(o.theta) * WIDE
        assert Hessian(o, None, int(share * column))._graphs.together() == max(1, int(share))


@pytest.mark.parametrize("make", [Hessian, ggn])
def test_blocks_of_every_width_are_the_same(make):
    o = objective("sequence")
    plain = make(o)
    column = 4 * plain._graphs.per_sample + len(o.theta) * WIDE
    narrow = make(o, None, 3 * column)
    assert (narrow._graphs.together(), plain._graphs.together() > 7) == (3, True)
    V = torch.randn(len(o.theta), 7, dtype=torch.float64)
    assert_close(narrow.matmat(V), plain.matmat(V), rtol=1e-12, atol=1e-14)


def test_gradients_are_on_inside_no_grad():
    net, (x, y) = tanh_net(), classified()
    o, V = of(net, x, y), torch.randn(39, 2, dtype=torch.float64)
    for make in (Hessian, ggn):
        truth = make(o).matmat(V)
        with torch.no_grad():
            for memory in (1, 2**30):
                assert torch.equal(make(o, None, memory).matmat(V[:, :1]), make(o).matmat(V[:, :1]))
                assert_close(make(o, None, memory).matmat(V), truth)
    assert float(truth.abs().max()) > 1e-3
