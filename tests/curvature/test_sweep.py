import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from cases import CASES, LABELS, coupled
from forms import Packed, TokensOnly, TwoInputs, WithAuxiliary, drawn
from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.curvature.gates import GateObserver
from infprune.curvature.kronecker import KroneckerObserver
from infprune.curvature.products import MaskGradientObserver
from infprune.curvature.sweep import LabelSource, Observer, Sweep

DATA, MODEL = LabelSource.DATA, LabelSource.MODEL


def loaded(name):
    module, x = CASES[name]()
    return module.double(), x.double(), coupled(name).prunable


def readers(layer):
    return {s.tensor.rpartition(".")[0]: s.index for s in layer.having(Role.CONSUMER)}


def consumers(layers):
    return sorted({name for layer in layers for name in readers(layer)})


def swept(module, layers, batches, observers, *, seed=0, draws=1):
    Sweep(module, consumers(layers), observers).run(batches, seed=seed, draws=draws)


def gates(module, layers, batches, labels=DATA, **options):
    observer = GateObserver(layers, labels)
    swept(module, layers, batches, [observer], **options)
    return observer.result()


def in_batches(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_gate_gradients_are_those_of_real_gates(name, device):
    module, x, layers = loaded(name)
    truth = {layer.name: reference.gate_gradients(module, x, LABELS, readers(layer)) for layer in layers}
    found = gates(module.to(device), layers, in_batches(x.to(device), LABELS.to(device), 4))
    assert found.keys() == truth.keys()
    for layer, z in truth.items():
        assert z.abs().max() > 1e-4
        assert_close(found[layer].cpu(), z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "residual", "sequence"])
def test_gates_at_labels_of_the_model(name):
    module, x, layers = loaded(name)
    draws = reference.drawn_labels(module(x), 5, 3)
    found = gates(module, layers, [(x, LABELS)], MODEL, seed=5, draws=3)
    for layer in layers:
        truth = [reference.gate_gradients(module, x, labels, readers(layer)) for labels in draws]
        assert_close(found[layer.name], torch.cat(truth), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "reused", "conv1d", "sequence"])
def test_batches_do_not_matter(name):
    module, x, layers = loaded(name)
    for labels in (DATA, MODEL):
        whole = gates(module, layers, [(x, LABELS)], labels)
        for size in (1, 4):
            parts = gates(module, layers, in_batches(x, LABELS, size), labels)
            for layer, z in whole.items():
                assert_close(parts[layer], z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "reused", "sequence"])
def test_batches_do_not_matter_to_several_labels_per_sample(name):
    module, x, layers = loaded(name)

    def moments(size):
        of_gates, kronecker = GateObserver(layers, MODEL), KroneckerObserver(consumers(layers))
        swept(module, layers, in_batches(x, LABELS, size), [of_gates, kronecker], seed=5, draws=3)
        Z = torch.cat(list(of_gates.result().values()), 1)
        return [Z.T @ Z, *(t for f in kronecker.result(3).values() for t in (f.inputs.dense(), f.gradients))]

    whole = moments(len(x))
    for size in (1, 4):
        assert_close(moments(size), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "reused", "conv1d", "sequence"])
def test_samples_do_not_see_each_other(name):
    module, x, layers = loaded(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = gates(module, layers, [(x[order], LABELS[order])])
    for layer, z in gates(module, layers, [(x, LABELS)]).items():
        assert_close(found[layer], z[order], rtol=1e-9, atol=1e-12)


class Recorder(Observer):
    """Output gradients per module, and the inputs."""

    labels = DATA

    def __init__(self):
        self.inputs, self.gradients = {}, {}

    def forward(self, name, module, x):  # noqa: ARG002 - the interface
        self.inputs.setdefault(name, []).append(x.clone())

    def output_gradient(self, name, module, y, gradient):  # noqa: ARG002 - the interface
        self.gradients.setdefault(name, []).append(gradient.clone())


@pytest.mark.parametrize("inplace", [False, True])
def test_output_gradients_of_convolutions_with_relu_behind_them(inplace):
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 3, 3),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()
    x, y = torch.randn(5, 2, 4, 4, dtype=torch.float64), torch.arange(5) % 3
    recorder = Recorder()
    Sweep(net, ["0", "2", "5"], [recorder]).run([(x, y)], seed=0, draws=1)
    value = x
    for position, module in enumerate(net):
        truth_in = value
        value = (F.relu(value) if isinstance(module, nn.ReLU) else module(value)).detach().requires_grad_()
        if str(position) not in recorder.inputs:
            continue
        rest = value
        for behind in net[position + 1 :]:
            rest = F.relu(rest) if isinstance(behind, nn.ReLU) else behind(rest)
        truth = torch.autograd.grad(F.cross_entropy(rest, y, reduction="sum"), value)[0]
        assert_close(recorder.gradients[str(position)], [truth], rtol=1e-12, atol=1e-14)
        assert_close(recorder.inputs[str(position)], [truth_in.detach()], rtol=1e-12, atol=1e-14)
    assert len(recorder.gradients) == 3


# --- left as it was ---------------------------------------------------------------------------------------------------


class BoomError(Exception):
    pass


class Failing(Observer):
    labels = DATA
    weights = True

    def __init__(self, where):
        if where != "nowhere":
            setattr(self, where, self._fail)

    def _fail(self, *_):
        raise BoomError

    def input_gradient(self, name, module, x, gradient):
        pass

    def output_gradient(self, name, module, y, gradient):
        pass


def portrait(module):
    return {
        "tensors": {name: t.clone() for name, t in module.state_dict().items()},
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
    }


def failing_data(x, where):
    yield x[:3], LABELS[:3]
    if where == "data":
        raise BoomError
    yield x[3:], LABELS[3:]


@pytest.mark.parametrize("where", ["nowhere", "forward", "input_gradient", "output_gradient", "batch", "data", "model"])
def test_the_network_is_left_as_it_was(where):
    module, x, layers = loaded("residual")
    module.train()
    module.bn1.eval()
    module.stem.weight.requires_grad_(requires_grad=False)
    module.head.weight.grad = torch.ones_like(module.head.weight)
    module.conv2.register_forward_hook(lambda *_: None)
    before, was = portrait(module), copy.deepcopy(torch.get_rng_state())
    if where == "model":
        x = x[:, :2]  # too few input channels
    observer = Failing(where if hasattr(Observer, where) else "nowhere")
    batches = failing_data(x, where)
    if where == "nowhere":
        swept(module, layers, batches, [observer])
    else:
        with pytest.raises(RuntimeError if where == "model" else BoomError):
            swept(module, layers, batches, [observer])
    assert_close(portrait(module), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), was)


def test_the_inputs_are_left_as_they_were():
    module, x, layers = loaded("plain")
    truth = gates(module, layers, [(x, LABELS)])
    x.requires_grad_()
    before = x.detach().clone()
    assert_close(gates(module, layers, [(x, LABELS)]), truth, rtol=0, atol=0)
    assert torch.equal(x, before)
    assert x.requires_grad
    assert x.grad is None


def test_batch_norms_are_used_in_eval_mode():
    module, x, layers = loaded("residual")
    truth = gates(module, layers, [(x, LABELS)])
    found = gates(module.train(), layers, [(x, LABELS)])
    assert_close(found, truth, rtol=0, atol=0)


# --- several inputs, token ids ----------------------------------------------------------------------------------------


def tokens_and_values():
    """A network of one float tensor, its layers, and what that tensor holds."""
    tokens, values, _ = drawn(len(LABELS), seed=4)
    packed, values = Packed().double(), values.double()
    return packed, couple(packed, torch.cat([tokens, values], 1)).prunable, tokens, values


@pytest.mark.parametrize("form", [TwoInputs, TokensOnly])
@pytest.mark.parametrize("needs_weights", [False, True])
def test_gates_behind_token_ids(form, needs_weights):
    packed, layers, tokens, values = tokens_and_values()
    values = values if form is TwoInputs else torch.ones_like(values)
    module = form().double()
    module.load_state_dict(packed.state_dict())
    observer = GateObserver(layers, DATA)
    more = [MaskGradientObserver(module, layers)] if needs_weights else []
    inputs = (tokens, values) if form is TwoInputs else tokens
    swept(module, layers, [(inputs, LABELS % 3)], [observer, *more])
    assert "words" in {layer.name for layer in layers}  # which only the tokens reach
    for layer in layers:
        truth = reference.gate_gradients(packed, torch.cat([tokens, values], 1), LABELS % 3, readers(layer))
        assert truth.abs().max() > 1e-6
        assert_close(observer.result()[layer.name], truth, rtol=1e-9, atol=1e-12)


def test_gradients_reach_all_watched_modules_beside_an_observer_of_weights():
    _, layers, tokens, _ = tokens_and_values()
    module, recorder = TokensOnly().double(), Recorder()
    recorder.labels = MODEL
    observers = [recorder, MaskGradientObserver(module, layers)]
    Sweep(module, ["embed", "words", "mix"], observers).run([(tokens, LABELS % 3)], seed=0, draws=1)
    assert recorder.gradients.keys() == {"embed", "words", "mix"}


def test_modules_that_are_not_called_give_nothing():
    module, recorder, labels = WithAuxiliary(), Recorder(), []
    recorder.batch = lambda samples, gradients: labels.append((samples, dict(gradients)))
    Sweep(module, ["side"], [recorder]).run([(torch.randn(2, 1, 8, 8), LABELS[:2])], seed=0, draws=1)
    assert (recorder.inputs, recorder.gradients, labels) == ({}, {}, [(2, {})])


# --- several observers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["residual", "tokens"])
def test_observers_do_not_disturb_each_other(case):
    module, x, layers = loaded("residual")
    if case == "tokens":
        packed, layers, x, _ = tokens_and_values()
        module = TokensOnly().double()
        module.load_state_dict(packed.state_dict())
    batches = in_batches(x, LABELS % 3, 4)

    def observers():
        return {
            "kronecker": KroneckerObserver(consumers(layers)),
            "model": GateObserver(layers, MODEL),
            "data": GateObserver(layers, DATA),
            "masks": MaskGradientObserver(module, layers),
        }

    def results(observers):
        return {
            name: {k: (v.inputs.dense(), v.gradients) for k, v in o.result(2).items()}
            if name == "kronecker"
            else o.result()
            for name, o in observers.items()
        }

    together = observers()
    swept(module, layers, batches, list(together.values()), seed=3, draws=2)
    alone = observers()
    for observer in alone.values():
        swept(module, layers, batches, [observer], seed=3, draws=2)
    assert_close(results(together), results(alone), rtol=1e-12, atol=1e-14)


# --- labels of the model ----------------------------------------------------------------------------------------------


def test_labels_come_from_the_seed_alone():
    module, x, layers = loaded("plain")
    first = gates(module, layers, [(x, LABELS)], MODEL, seed=1, draws=4)
    torch.manual_seed(99)
    again = gates(module, layers, [(x, (LABELS + 1) % 4)], MODEL, seed=1, draws=4)
    other = gates(module, layers, [(x, LABELS)], MODEL, seed=2, draws=4)
    assert_close(again, first, rtol=0, atol=0)
    assert any(not torch.equal(other[name], z) for name, z in first.items())


def test_labels_have_the_probabilities_of_the_model():
    net = nn.Sequential(nn.Linear(2, 3)).double()
    nn.init.zeros_(net[0].weight)
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    net[0].bias.data = p.log()
    recorder = Recorder()
    recorder.labels = MODEL
    N = 20_000
    Sweep(net, ["0"], [recorder]).run([(torch.randn(N, 2).double(), torch.zeros(N).long())], seed=0, draws=1)
    drawn = p - recorder.gradients["0"][0]  # dL/dlogits = p - one-hot label
    assert_close(drawn.round(), drawn, rtol=0, atol=1e-9)
    assert_close(drawn.sum(1), torch.ones(N, dtype=torch.float64))
    assert_close(drawn.mean(0), p, rtol=0, atol=5 * (0.25 / N) ** 0.5)
