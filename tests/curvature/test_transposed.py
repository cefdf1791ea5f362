"""Transposed convolutions: their columns, their curvature, the scores and refits that rest on them."""

import copy
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from infprune.compensation import least_squares
from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.curvature import patches
from infprune.curvature.gram import gram
from infprune.scores import measure
from infprune.scores.contract import Need, ScoringInputs
from infprune.surgery import cut, kept_positions

EXACT = {"rtol": 1e-10, "atol": 1e-12}

KINDS = {
    "plain": (nn.ConvTranspose2d(3, 4, 3), (3, 3, 4, 5)),
    "1x1": (nn.ConvTranspose2d(3, 4, 1), (3, 3, 4, 5)),
    "stride": (nn.ConvTranspose2d(3, 4, 3, stride=(2, 3)), (3, 3, 4, 3)),
    "padding": (nn.ConvTranspose2d(3, 4, 3, padding=(1, 2)), (3, 3, 4, 5)),
    "more padding than kernel": (nn.ConvTranspose2d(3, 4, 2, stride=2, padding=2), (3, 3, 4, 4)),
    "output padding": (nn.ConvTranspose2d(3, 4, 3, stride=3, padding=1, output_padding=(2, 1)), (3, 3, 3, 2)),
    "dilation": (nn.ConvTranspose2d(3, 4, 3, dilation=(2, 1)), (3, 3, 4, 5)),
    "everything": (nn.ConvTranspose2d(3, 4, (2, 3), (3, 2), (1, 2), (2, 1), dilation=(2, 3)), (3, 3, 4, 3)),
    "without bias": (nn.ConvTranspose2d(3, 4, 3, stride=2, bias=False), (3, 3, 4, 5)),
    "gaps": (nn.ConvTranspose2d(3, 4, 2, stride=4), (2, 3, 2, 3)),
    "1d": (nn.ConvTranspose1d(3, 4, 3, stride=2, padding=2, output_padding=1), (3, 3, 7)),
    "1d, dilation": (nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, dilation=3), (3, 3, 5)),
    "3d": (nn.ConvTranspose3d(2, 4, (1, 2, 2), stride=(1, 2, 2), padding=(0, 1, 0)), (2, 2, 3, 3, 2)),
    "3d, output padding": (nn.ConvTranspose3d(2, 3, 2, stride=2, output_padding=(1, 0, 1)), (2, 2, 2, 3, 2)),
}


def variant(name):
    module, shape = KINDS[name]
    return copy.deepcopy(module).double(), torch.randn(*shape, dtype=torch.float64)


def columns(module, x, *, ones=False):
    """From the definition: y[stride i + dilation k - padding] += W[k] x[i]. `(1, I K (+ 1), N P)`, kernels reversed."""
    N, inputs, *space = x.shape
    y = module(x)
    kernels, targets = list(product(*map(range, module.kernel_size))), list(product(*map(range, y.shape[2:])))
    found = torch.zeros(inputs, len(kernels), N, len(targets), dtype=x.dtype)
    for (k, offset), source in product(enumerate(reversed(kernels)), product(*map(range, space))):
        geometry = zip(source, module.stride, offset, module.dilation, module.padding, strict=True)
        target = tuple(i * step + o * d - p for i, step, o, d, p in geometry)
        if target in targets:
            found[:, k, :, targets.index(target)] += x[(slice(None), slice(None), *source)].T
    found = found.reshape(1, inputs * len(kernels), -1)
    return torch.cat([found, torch.ones_like(found[:, :1])], dim=1) if ones else found


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_columns_are_those_of_the_definition(name):
    module, x = variant(name)
    for ones in (False, True):
        assert torch.equal(patches.columns(module, x, ones=ones), columns(module, x, ones=ones))


@pytest.mark.parametrize("name", KINDS)
def test_matrix_times_columns_is_the_output(name):
    module, x = variant(name)
    y = module(x)
    bias = torch.zeros(y.shape[1], dtype=x.dtype) if module.bias is None else module.bias
    found = patches.matrix(module) @ patches.columns(module, x, ones=False) + bias[None, :, None]
    assert found.shape == (1, y.shape[1], y[:, 0].numel())
    assert_close(found, patches.outputs(module, y), **EXACT)
    assert torch.equal(patches.outputs(module, y), reference.rows(nn.Conv2d(1, 1, 1), y))  # one group


@pytest.mark.parametrize("name", KINDS)
def test_assign_is_the_inverse_of_matrix(name):
    module, x = variant(name)
    before, weight = module.weight.detach().clone(), module.weight
    with torch.no_grad():
        old = patches.matrix(module).clone()
        new = torch.randn_like(old)
        module.weight.copy_(patches.assigned(module, new))
        assert torch.equal(patches.matrix(module), new)
        y = patches.outputs(module, module(x))
        bias = 0 if module.bias is None else module.bias[None, :, None]
        assert_close(new @ columns(module, x) + bias, y, **EXACT)
        module.weight.copy_(patches.assigned(module, old))
    assert torch.equal(module.weight, before)
    assert module.weight is weight


@pytest.mark.parametrize("name", ["everything", "3d", "1d"])
def test_gram_does_not_depend_on_the_chunks(name, monkeypatch):
    module, x = variant(name)
    truth = columns(module, x, ones=True)
    assert_close(gram(module, x), truth @ truth.mT, **EXACT)
    parts = patches.chunks(module, x, 1)
    assert len(parts) == len(x)
    monkeypatch.setattr(patches, "chunks", lambda *_, **__: parts)
    assert_close(gram(module, x), truth @ truth.mT, **EXACT)


def test_chunks_bound_the_columns():
    module, x = nn.ConvTranspose2d(3, 4, 3, stride=3), torch.randn(50, 3, 6, 5)
    limit = 100_000
    sizes = [patches.columns(module, x[part], ones=False).nbytes for part, _ in patches.chunks(module, x, limit)]
    assert limit / 4 < max(sizes) <= limit


# --- curvature and scores ---------------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """The first layer is read by a transposed convolution and by an ordinary one; then comes another transposed one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1)
        self.up = nn.ConvTranspose2d(5, 4, 3, stride=2, padding=1, output_padding=1)
        self.side = nn.Conv2d(5, 4, 1)
        self.last = nn.ConvTranspose2d(4, 6, 2, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.up(x).relu() + F.interpolate(self.side(x), scale_factor=2)
        return self.head(self.last(y).tanh().mean((2, 3)))


@pytest.fixture(scope="module")
def decoder():
    """Network, inputs, labels and coupling; nobody may change them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = Decoder()
        for p in net.parameters():
            nn.init.normal_(p, 0.0, 0.6)
        net, x = net.double().eval(), torch.randn(6, 2, 3, 3, dtype=torch.float64)
    return net, x, torch.arange(6) % 3, couple(net, x)


def readers(layer):
    return {s.tensor.rpartition(".")[0]: s.index for s in layer.having(Role.CONSUMER)}


def gated(_, args, gate):
    return (args[0] * gate.reshape(1, -1, *(1,) * (args[0].dim() - 2)),)


def gate_gradients(net, x, y, names):
    """dL_n/dg for a gate that multiplies one channel at the input of every module named. `(N, C)`."""
    owners = [net.get_submodule(name) for name in names]
    size = owners[0].in_features if isinstance(owners[0], nn.Linear) else owners[0].in_channels
    found = []
    for n in range(len(x)):
        gate = torch.ones(size, dtype=x.dtype, requires_grad=True)
        hooks = [owner.register_forward_pre_hook(partial(gated, gate=gate)) for owner in owners]
        found.append(torch.autograd.grad(F.cross_entropy(net(x[n : n + 1]), y[n : n + 1]), gate)[0])
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


GATES = {"stem": ["up", "side"], "up": ["last"], "last": ["head"]}


def test_gates_where_transposed_convolutions_read(decoder):
    net, x, y, coupling = decoder
    layers = coupling.prunable
    assert {layer.name: sorted(readers(layer)) for layer in layers} == {k: sorted(v) for k, v in GATES.items()}
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    needs = frozenset({Need.GATES_DATA, Need.GATES_MODEL})
    found = measure.collect(net, layers, batches, needs, seed=3, draws=1)
    drawn = torch.cat(reference_draws(net, batches, 3))
    for layer, names in GATES.items():
        assert_close(found.gates_data[layer], gate_gradients(net, x, y, names), **EXACT)
        assert_close(found.gates_model[layer], gate_gradients(net, x, drawn, names), **EXACT)
    inputs = ScoringInputs(net, layers, found, None, 0)
    taylor = measure.score("taylor", inputs).values
    assert_close(taylor["stem"], gate_gradients(net, x, y, GATES["stem"]).abs().mean(0), **EXACT)


def reference_draws(net, batches, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.multinomial(net(x).detach().softmax(1), 1, generator=generator)[:, 0] for x, _ in batches]


def columns_of(owner, x):
    if getattr(owner, "transposed", False):
        return columns(owner, x, ones=True)
    return reference.columns(owner, x, ones=True)


def recorded(net, name, x):
    """Inputs and outputs of one call of a module, in the graph of a forward pass; and the logits."""
    calls = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, args, y: calls.append((args[0].detach(), y)))
    logits = net(x)
    hook.remove()
    return *calls[0], logits


def test_kronecker_factors_of_transposed_convolutions(decoder):
    """A = E_n sum_p a a^T and G = E_{n,p} g g^T, one sample at a time, at the labels that were drawn."""
    net, x, _, coupling = decoder
    layers = coupling.prunable
    batches = [(x, torch.zeros(6, dtype=torch.int64))]
    found = measure.collect(net, layers, batches, frozenset({Need.KRONECKER}), seed=1, draws=1).kronecker
    assert sorted(found) == ["head", "last", "side", "up"]
    (labels,) = reference_draws(net, batches, 1)
    for name, factors in found.items():
        owner, A, G, positions = net.get_submodule(name), 0, 0, 0
        for n in range(6):
            a, y, logits = recorded(net, name, x[n : n + 1])
            g = torch.autograd.grad(F.cross_entropy(logits, labels[n : n + 1]), y)[0]
            g = reference.rows(nn.Linear(1, 1) if name == "head" else nn.Conv2d(1, 1, 1), g)
            A, G = A + columns_of(owner, a) @ columns_of(owner, a).mT, G + g @ g.mT
            positions += g.shape[-1]
        assert_close(factors.inputs.dense(), A / 6, **EXACT)
        assert_close(factors.gradients, G / positions, **EXACT)


def read_columns(owner, index):
    kernel = owner.weight.shape[2:].numel()
    return [[i * kernel + k for i in positions for k in range(kernel)] for positions in index.tolist()]


def test_influence_is_the_loss_left_after_refits(decoder):
    """1/2 E_n sum_p r^T G r over the consumers, r what no refit of the columns that stay explains; greedily."""
    net, _, _, coupling = decoder
    x = torch.randn(40, 2, 3, 3, dtype=torch.float64)
    layers = coupling.prunable
    batches = [(x, torch.zeros(40, dtype=torch.int64))]
    statistics = measure.collect(net, layers, batches, measure.needs_of(["influence"]), seed=0, draws=1)
    found = measure.score("influence", ScoringInputs(net, layers, statistics, 1e-10)).values
    for layer in layers[:2]:
        problems = []
        for name, index in readers(layer).items():
            owner = net.get_submodule(name)
            a, y, _ = recorded(net, name, x)
            Y = reference.rows(nn.Conv2d(1, 1, 1), y.detach())
            problems.append((columns_of(owner, a), Y, read_columns(owner, index), name))

        def total(gone, problems=problems):
            loss = 0.0
            for X, Y, channels, name in problems:
                stay = [i for i in range(X.shape[1]) if all(i not in channels[c] for c in gone)]
                rest = Y - reference.least_squares(X[:, stay], Y) @ X[:, stay]
                loss += 0.5 * float((statistics.kronecker[name].gradients * (rest @ rest.mT)).sum()) / len(x)
            return loss

        truth = reference.prices(total, layer.size)
        assert truth.min() > 1e-6
        assert_close(found[layer.name], truth, rtol=1e-5, atol=1e-8)


def test_theorem1_reads_the_weight_as_it_multiplies_the_columns(decoder):
    net, x, y, coupling = decoder
    layers, damping = coupling.prunable, 0.05
    statistics = measure.collect(net, layers, [(x, y)], measure.needs_of(["theorem1"]), seed=0, draws=1)
    found = measure.score("theorem1", ScoringInputs(net, layers, statistics, damping)).values
    factors = statistics.kronecker["last"]
    A, G = factors.inputs.dense()[0], factors.gradients[0]
    A, G = (m + damping * torch.eye(len(m), dtype=m.dtype) for m in (A, G))
    weight = net.last.weight.detach().transpose(0, 1).flip((2, 3)).flatten(1)
    theta = torch.cat([weight, torch.zeros(len(weight), 1, dtype=weight.dtype)], dim=1).flatten()
    index = torch.arange(4)[:, None]
    for c, channel in enumerate(read_columns(net.last, index)):
        w = torch.zeros(len(G), len(A), dtype=A.dtype)
        w[:, channel] = 1
        truth = reference.theorem1(torch.kron(G, A), theta, w.flatten())[2]
        assert_close(found["up"][c], truth, rtol=1e-8, atol=1e-12)


# --- compensation -----------------------------------------------------------------------------------------------------


def fitted_by_hand(dense, small, name, kept, x):
    """argmin_V |Y - V X|^2 closest to the weight as it was cut, with its bias; from the loops' columns."""
    owner = small.get_submodule(name)
    a, _, _ = recorded(small, name, x)
    _, y, _ = recorded(dense, name, x)
    turned = getattr(owner, "transposed", False)
    rows = kept.get(f"{name}.weight", {}).get(1 if turned else 0)
    y = y.detach() if rows is None else y.detach().index_select(1, rows)
    X, Y = columns_of(owner, a), reference.rows(owner if isinstance(owner, nn.Linear) else nn.Conv2d(1, 1, 1), y)
    weight = owner.weight.detach().clone()
    weight = (weight.transpose(0, 1).flip((2, 3)) if turned else weight).flatten(1)
    if owner.bias is None:
        return reference.least_squares(X[:, :-1], Y, near=weight[None])[0], None, weight
    V = reference.least_squares(X, Y, near=torch.cat([weight, owner.bias.detach()[:, None]], 1)[None])[0]
    return V[:, :-1], V[:, -1], weight


def test_refits_of_transposed_convolutions_are_those_of_lstsq(decoder):
    dense, _, _, coupling = decoder
    x = torch.randn(80, 2, 3, 3, dtype=torch.float64)
    masks = {layer.name: torch.arange(layer.size) % 3 != 1 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    small = cut(dense, coupling, masks)
    by_hand = copy.deepcopy(small)
    order = ["up", "side", "last", "head"]
    with torch.no_grad():
        for name in order:
            weight, bias, old = fitted_by_hand(dense, by_hand, name, kept, x)
            owner = by_hand.get_submodule(name)
            if getattr(owner, "transposed", False):
                shape = (owner.weight.shape[1], owner.weight.shape[0], *owner.kernel_size)
                owner.weight.copy_(weight.reshape(shape).flip((2, 3)).transpose(0, 1))
            else:
                owner.weight.copy_(weight.reshape(owner.weight.shape))
            if bias is not None:
                owner.bias.copy_(bias)
            assert (weight - old).abs().max() > 1e-2
    fits = least_squares(dense, small, coupling, kept, [(x, torch.zeros(80, dtype=torch.int64))], damping=0)
    assert [fit.module for fit in fits] == order
    assert all(0 <= fit.after < fit.before for fit in fits)
    for name, tensor in small.state_dict().items():
        assert_close(tensor, by_hand.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)
    assert_close(small(x), by_hand(x), rtol=1e-7, atol=1e-8)
    assert (small(x) - dense(x)).norm() < (cut(dense, coupling, masks)(x) - dense(x)).norm()
