"""Gates on the weights that read a channel equal gates on the channel, in value and in slope."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import reference
from cases import CASES, coupled
from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.joint.gates import Gates
from infprune.surgery import cut, silenced


def drawn(layers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.size, generator=generator, dtype=torch.float64) for layer in layers}


def at_readers(module, layers, gates):
    """The same gates as factors of the inputs of modules, for `reference.gated`."""
    factors = {}
    for layer in layers:
        for s in layer.having(Role.CONSUMER):
            name = s.tensor.rpartition(".")[0]
            owner = module.get_submodule(name)
            size = dict(module.named_parameters())[s.tensor].shape[s.dim]
            groups, factor = factors.get(name, (getattr(owner, "groups", 1), torch.ones(size, dtype=torch.float64)))
            factor = factor.index_copy(0, s.index.flatten(), gates[layer.name].repeat_interleave(s.index.shape[1]))
            factors[name] = (groups, factor)
    return factors


@pytest.mark.parametrize("name", [n for n in CASES if n != "tied"])  # a tied weight is read under two modules' names
def test_gated_weights_are_gated_channels(name, device):
    module, x = CASES[name]()
    module, x, layers = module.double(), x.double(), coupled(name).prunable
    gates = {n: g.requires_grad_() for n, g in drawn(layers).items()}
    truth = reference.gated(module, x, at_readers(module, layers, gates))
    slopes = torch.autograd.grad(truth.square().sum(), list(gates.values()))
    module = module.to(device)
    on_device = {n: g.detach().to(device).requires_grad_() for n, g in gates.items()}
    found = Gates(module, layers).logits(module, x.to(device), on_device)
    assert_close(found.cpu(), truth, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found.cpu(), module(x.to(device)).cpu(), rtol=1e-3)
    for slope, expected in zip(
        torch.autograd.grad(found.square().sum(), list(on_device.values())), slopes, strict=True
    ):
        assert expected.abs().max() > 1e-6
        assert_close(slope.cpu(), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_binary_gates_are_surgery(name):
    module, x = CASES[name]()
    module, x, coupling = module.double(), x.double(), coupled(name)
    masks = {layer.name: torch.arange(layer.size) % 3 > 0 for layer in coupling.prunable}
    gates = {n: m.double() for n, m in masks.items()}
    made = Gates(module, coupling.prunable)
    assert_close(made.logits(module, x, gates), cut(module, coupling, masks)(x), rtol=1e-10, atol=1e-12)
    assert_close(made.applied(module, gates)(x), silenced(module, coupling, masks)(x), rtol=1e-12, atol=1e-14)


def test_layers_without_a_gate_are_whole():
    module, x = CASES["residual"]()
    layers = coupled("residual").prunable
    made = Gates(module, layers)
    assert torch.equal(made.logits(module, x, {}), module(x))
    assert made.tensors(module, {}) == {}
    one = {layers[0].name: torch.zeros(layers[0].size)}
    assert not torch.allclose(made.logits(module, x, one), module(x))


def test_applied_leaves_the_network_alone():
    module, x = CASES["plain"]()
    before = module(x)
    layers = coupled("plain").prunable
    Gates(module, layers).applied(module, {layer.name: torch.zeros(layer.size) for layer in layers})
    assert torch.equal(module(x), before)


class Attending(nn.Module):
    """Query and key of their own modules, whose channels meet in a product."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = (m(x).unflatten(-1, (2, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


def test_channels_that_meet_in_a_product_are_gated_where_they_are_made():
    module, x = Attending().double().eval(), torch.randn(6, 4, 5, dtype=torch.float64)
    coupling = couple(module, x)
    assert any(layer.multiplied for layer in coupling.prunable)
    masks = {layer.name: torch.arange(layer.size) % 2 > 0 for layer in coupling.prunable}
    gates = {n: m.double() for n, m in masks.items()}
    found = Gates(module, coupling.prunable).applied(module, gates)
    assert_close(found(x), cut(module, coupling, masks)(x), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found(x), module(x), rtol=1e-3)
