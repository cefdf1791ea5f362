"""Layers that something else than a module reads: measured at a gate where they are produced."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from infprune.coupling.couple import couple
from infprune.scores import SCORES, measure
from infprune.scores.contract import Need, ScoringInputs

EXACT = {"rtol": 1e-10, "atol": 1e-13}
N, T, HEADS, WIDTH = 6, 4, 2, 3
LABELS = torch.arange(N) % 3


class Gated(nn.Module):
    """A network whose code multiplies by `self.gates[name]` where a layer is read, if there is such a gate."""

    def __init__(self):
        super().__init__()
        self.gates = {}

    def gate(self, name, x):
        return x * self.gates[name] if name in self.gates else x


class Separate(Gated):
    """Query, key and value of their own modules; a gate is an index of every head."""

    def __init__(self):
        super().__init__()
        for name in "qkv":
            setattr(self, name, nn.Linear(5, HEADS * WIDTH))
        self.out, self.head = nn.Linear(HEADS * WIDTH, 7), nn.Linear(7, 3)

    def project(self, x):
        return [m(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in (self.q, self.k, self.v)]

    def forward(self, x):
        q, k, v = self.project(x)
        y = (self.gate("product", q) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = self.gate("value", y).transpose(1, 2).flatten(2)
        return self.head(self.gate("out", self.out(y).relu()).mean(1))


class Packed(Separate):
    """One module for all three, which therefore lose the same index."""

    def __init__(self):
        super().__init__()
        del self.q, self.k, self.v
        self.qkv = nn.Linear(5, 3 * HEADS * WIDTH)

    def project(self, x):
        return self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Shared(Separate):
    """Query and key are the same."""

    def __init__(self):
        super().__init__()
        del self.k

    def project(self, x):
        q, v = (m(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for m in (self.q, self.v))
        return q, q, v


class Functional(Gated):
    """A parameter that a function multiplies with: behind a linear layer (twice, added) and a rectifier."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 4)
        self.w, self.head = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 3)

    def weigh(self, x):
        return F.linear(x, self.w)

    def forward(self, x):
        x = (self.a(x) + self.b(x)).relu()
        return self.head(self.gate("w", self.weigh(self.gate("a", x)).relu()).mean(1))


class Turned(Functional):
    """The code turns the parameter around first, which makes it a product of two values."""

    def weigh(self, x):
        return x @ self.w.t()


class Words(Gated):
    """A table of words that a function reads."""

    def __init__(self):
        super().__init__()
        self.table, self.w, self.head = nn.Embedding(9, 4), nn.Parameter(torch.randn(4, 6)), nn.Linear(6, 3)

    def forward(self, x):
        words = self.gate("table", self.table((2 * x).long().abs().clamp(0, 8)))
        return self.head(self.gate("w", (words @ self.w).tanh()).mean((1, 2)))


class Upwards(Gated):
    """A grouped transposed convolution, of which no columns are known; a channel is one index of both groups."""

    def __init__(self):
        super().__init__()
        self.a, self.up, self.head = nn.Conv1d(T, 6, 1), nn.ConvTranspose1d(6, 4, 3, groups=2), nn.Linear(4, 3)

    def forward(self, x):
        x = self.up(self.grouped("a", self.a(x)))
        return self.head(self.grouped("up", x.relu()).mean(2))

    def grouped(self, name, x):
        return self.gate(name, x.unflatten(1, (2, -1)).movedim(2, -1)).movedim(-1, 2).flatten(1, 2)


# --- gates ------------------------------------------------------------------------------------------------------------

NETWORKS = {  # of each: where its layers are read, and which of these no module reads
    Separate: ({"q": ["product"], "v": ["value"], "out": ["out"]}, {"q"}),
    Packed: ({"qkv": ["product", "value"], "out": ["out"]}, {"qkv"}),
    Shared: ({"q": ["product"], "v": ["value"], "out": ["out"]}, {"q"}),
    Functional: ({"a": ["a"], "w": ["w"]}, {"a"}),
    Turned: ({"a": ["a"]}, {"a"}),
    Words: ({"table": ["table"], "w": ["w"]}, {"table"}),
    Upwards: ({"a": ["a"], "up": ["up"]}, {"a"}),
}
SHARES = "half of every producer is one product only where each side of it has one"
KINDS = [pytest.param(k, marks=pytest.mark.xfail(reason=SHARES)) if k is Turned else k for k in NETWORKS]


@cache
def made(kind):
    """Network, inputs and layers; nobody may change them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net, x = kind().double().eval(), torch.randn(N, T, 5, dtype=torch.float64)
    return net, x, couple(net, x).prunable


def gate_gradients(net, x, labels, places, size):
    """dL_n/dg at g = 1, one sample after the other: `(N, C)`."""
    found = []
    for n in range(len(x)):
        gate = torch.ones(size, dtype=x.dtype, requires_grad=True)
        net.gates = dict.fromkeys(places, gate)
        found.append(torch.autograd.grad(F.cross_entropy(net(x[n : n + 1]), labels[n : n + 1]), gate)[0])
    net.gates = {}
    return torch.stack(found)


def drawn(net, batches, seed):
    """Labels from the network's own predictions, batch after batch, as documented."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.multinomial(net(x).detach().softmax(1), 1, generator=generator)[:, 0] for x, _ in batches])


@pytest.mark.parametrize("kind", KINDS)
def test_gate_gradients_are_those_of_a_gate_where_the_channel_is_read(kind):
    places, gated = NETWORKS[kind]
    net, x, layers = made(kind)
    assert {layer.name: layer.gated for layer in layers} == {name: name in gated for name in places}
    batches = [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])]
    needs = frozenset({Need.GATES_DATA, Need.GATES_MODEL})
    found = measure.collect(net, layers, batches, needs, seed=4, draws=1)
    model = drawn(net, batches, 4)
    for layer in layers:
        for z, labels in ((found.gates_data, LABELS), (found.gates_model, model)):
            truth = gate_gradients(net, x, labels, places[layer.name], layer.size)
            assert truth.abs().max() > 1e-4
            assert_close(z[layer.name], truth, **EXACT)


def test_a_gate_stands_behind_the_producer():
    """What follows it may not be linear: there, the gate at the producer's output is what is measured."""
    net, x = Functional().double().eval(), made(Functional)[1]
    net.forward = lambda x: net.head(net.weigh(net.gate("made", net.a(x) + net.b(x)).sigmoid()).relu().mean(1))
    (layer, _) = couple(net, x).prunable
    found = measure.collect(net, [layer], [(x, LABELS)], frozenset({Need.GATES_DATA}), seed=0, draws=1)
    assert_close(found.gates_data["a"], gate_gradients(net, x, LABELS, ["made"], 4), **EXACT)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", [name for name in SCORES if name != "bn-scale"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_criterion_scores_them(kind, criterion):
    net, x, layers = made(kind)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    parts = [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])]
    statistics = measure.collect(net, layers, parts, measure.needs_of([criterion]), seed=0, draws=2)
    found = measure.score(criterion, ScoringInputs(net, layers, statistics, None, 0)).values
    assert list(found) == [layer.name for layer in layers]
    for layer in layers:
        scores = found[layer.name]
        assert (scores.shape, scores.dtype) == ((layer.size,), torch.float64)
        assert bool((scores >= 0).all() & scores.isfinite().all())
        assert len(scores.unique()) > 1
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.parametrize("criterion", ["influence", "theorem1"])
@pytest.mark.parametrize("kind", [Separate, Shared, Functional, Words, Upwards])
def test_a_gated_layer_is_priced_at_its_gate(kind, criterion):
    """1/2 E z^2 for those that no module reads; the others are priced by their consumers as ever."""
    places, gated = NETWORKS[kind]
    net, x, layers = made(kind)
    statistics = measure.collect(net, layers, [(x, LABELS)], measure.needs_of([criterion]), seed=2, draws=1)
    found = measure.score(criterion, ScoringInputs(net, layers, statistics, 0.01, 0)).values
    labels = drawn(net, [(x, LABELS)], 2)
    for name in gated:
        z = gate_gradients(net, x, labels, places[name], len(found[name]))
        assert_close(found[name], 0.5 * z.square().mean(0), **EXACT)
    others = [layer for layer in layers if layer.name not in gated]
    alone = measure.collect(net, others, [(x, LABELS)], measure.needs_of([criterion]), seed=2, draws=1)
    truth = measure.score(criterion, ScoringInputs(net, others, alone, 0.01, 0)).values
    assert truth.keys() == found.keys() - gated
    assert all(torch.equal(found[name], scores) for name, scores in truth.items())


def test_a_price_is_the_loss_change_of_the_fisher():
    """Draws are averaged: the gates' rows of all draws stand one below the other."""
    net, x, layers = made(Separate)
    three = measure.collect(net, layers, [(x, LABELS)], measure.needs_of(["influence"]), seed=7, draws=3)
    z = three.gates_model["q"]
    labels = reference.drawn_labels(net(x), 7, 3)
    place = NETWORKS[Separate][0]["q"]
    assert_close(z, torch.cat([gate_gradients(net, x, one, place, z.shape[1]) for one in labels]), **EXACT)
    found = measure.score("influence", ScoringInputs(net, layers, three, 0.01)).values["q"]
    assert_close(found, 0.5 * z.square().sum(0) / (3 * N), **EXACT)


def test_only_gated_layers_pay_for_gates():
    """Kronecker scores need no gates where a module reads every channel."""
    net, x, layers = made(Separate)
    for chosen, names in ((layers, {"q"}), (layers[1:], set())):
        found = measure.collect(net, chosen, [(x, LABELS)], frozenset({Need.KRONECKER}), seed=0, draws=1)
        assert found.gates_model.keys() == names
        assert found.kronecker.keys() == {"out", "head"}
        assert not found.gates_data
