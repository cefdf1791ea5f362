"""Curves against one cut, refitted and run network per layer and width."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import reference
from cases import CASES, coupled
from infprune import sensitivity
from infprune.coupling.groups import Role
from infprune.scores.contract import Need
from infprune.scores.measure import collect
from infprune.sensitivity import DAMPING, SHARES, measure, widths
from infprune.surgery import kept_positions, silenced


def problem(name, samples=80):
    module, example = CASES[name]()
    module, coupling = module.double(), coupled(name)
    generator = torch.Generator().manual_seed(1)
    x, held_out = torch.randn(2, samples, *example.shape[1:], dtype=torch.float64, generator=generator)
    layers = coupling.prunable
    batches = [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(32)]
    moments = collect(module, layers, batches, frozenset({Need.MOMENTS}), seed=0, draws=1).moments
    scores = {layer.name: torch.rand(layer.size, generator=generator) for layer in layers}
    return module, coupling, layers, scores, moments, x, held_out


def inputs_of(network, name, x):
    found = []
    weight = network.get_submodule(name).weight
    owners = [m for m in network.modules() if getattr(m, "weight", None) is weight]
    hooks = [m.register_forward_pre_hook(lambda _, args: found.append(args[0].clone())) for m in owners]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def narrowed(module, coupling, layer, mask, x):
    """The dense network that ignores some channels of a layer, its readers refitted to the dense outputs."""
    small = silenced(module, coupling, {layer.name: mask})
    kept = kept_positions(coupling, {layer.name: mask})
    for s in layer.having(Role.CONSUMER):
        name = s.tensor.rpartition(".")[0]
        [call, *_] = [c for c in coupling.computations if c.weight == s.tensor]
        dense, owner = module.get_submodule(name), small.get_submodule(name)
        X = torch.cat([reference.columns(dense, a, ones=True) for a in inputs_of(module, name, x)], dim=2)
        kernel = dense.weight.shape[2:].numel()
        rows = (kept[s.tensor][1][:, None] * kernel + torch.arange(kernel)).flatten()
        norm = call.norm if dense.bias is None and coupling.owns_norm(call) else None
        if dense.bias is not None or norm is not None:
            rows = torch.cat([rows, torch.tensor([X.shape[1] - 1])])
        weight = dense.weight.reshape(len(X), -1, X.shape[1] - 1)
        bias = torch.zeros(len(dense.weight), dtype=X.dtype) if dense.bias is None else dense.bias
        W = torch.cat([weight, bias.reshape(len(X), -1, 1)], dim=2)
        few = X[:, rows]
        ridge = float(DAMPING * (few @ few.mT).diagonal(dim1=1, dim2=2).mean()) if len(X) == 1 else None
        V = torch.zeros_like(W)
        for g in range(len(X)):
            own = DAMPING * float((few[g] @ few[g].T).diagonal().mean()) if ridge is None else ridge
            V[g, :, rows] = reference.least_squares(
                few[g : g + 1], (W @ X)[g : g + 1], near=W[g : g + 1, :, rows], ridge=own
            )[0]
        owner.weight.copy_(V[..., :-1].reshape(owner.weight.shape))
        if dense.bias is not None:
            owner.bias.copy_(V[..., -1].reshape(-1))
        elif norm is not None:
            dict(small.named_buffers())[norm].sub_(V[..., -1].reshape(-1))
    return small


@pytest.mark.parametrize("name", CASES)
def test_curves_are_those_of_networks_cut_refitted_and_run(name, monkeypatch):
    module, coupling, layers, scores, moments, x, held_out = problem(name)
    monkeypatch.setattr(sensitivity, "SHARES", (0.7, 0.3))
    found = measure(module, coupling, layers, scores, moments, held_out)
    assert found.keys() == {layer.name for layer in layers}
    with torch.no_grad():
        dense = module(held_out)
    for layer in layers:
        curve = found[layer.name]
        assert curve.kept == tuple(widths(layer.size))
        for kept, loss in zip(curve.kept, curve.loss, strict=True):
            mask = torch.zeros(layer.size, dtype=torch.bool)
            mask[scores[layer.name].topk(kept).indices] = True
            with torch.no_grad():
                gap = narrowed(module, coupling, layer, mask, x)(held_out) - dense
            truth = float((gap - gap.mean(1, keepdim=True)).square().mean())
            assert loss == pytest.approx(truth, rel=1e-6)
            assert truth > 1e-6


@pytest.mark.parametrize("name", ["residual", "reused", "separable", "sequence"])
def test_the_network_is_left_as_it_was_and_parts_change_nothing(name, monkeypatch):
    module, coupling, layers, scores, moments, _, held_out = problem(name)
    module.train()
    before = copy.deepcopy(module.state_dict())
    whole = measure(module, coupling, layers, scores, moments, held_out)
    monkeypatch.setattr(sensitivity, "MEMORY", 1)
    single = measure(module, coupling, layers, scores, moments, held_out)
    for layer, curve in whole.items():
        assert_close(torch.tensor(curve.loss), torch.tensor(single[layer].loss), rtol=1e-9, atol=0)
    assert all(torch.equal(module.state_dict()[key], tensor) for key, tensor in before.items())
    for m in module.modules():
        assert m.training
        assert "forward" not in vars(m)
        assert not m._forward_hooks
        assert not m._forward_pre_hooks


def test_what_comes_before_the_cut_layer_runs_once(monkeypatch):
    module, coupling, layers, scores, moments, _, held_out = problem("plain")
    runs = []
    first = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    forward = first._conv_forward
    first._conv_forward = lambda *args: runs.append(len(args[0])) or forward(*args)
    measure(module, coupling, layers, scores, moments, held_out)
    assert runs == [1, len(held_out)]  # the probe of its memory, and the pass that trials start from


def test_widths():
    assert widths(1) == []
    assert widths(2) == [1]
    assert widths(100) == [round(100 * share) for share in SHARES]
    assert all(0 < kept < size for size in range(1, 60) for kept in widths(size))
