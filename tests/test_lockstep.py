"""Paused passes give what passes run anew give, at the price of one."""

import threading

import pytest
import torch
from torch import nn

from cases import CASES, coupled
from forms import TwoInputs, drawn
from infprune import lockstep as module
from infprune.compensation import least_squares
from infprune.coupling.couple import couple
from infprune.errors import ArchitectureError
from infprune.lockstep import lockstep
from infprune.surgery import kept_positions, resized


def batches(x):
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(2)]


def waiting():
    return [thread for thread in threading.enumerate() if isinstance(thread, module._Pass)]


@pytest.mark.parametrize("name", CASES)
def test_paused_passes_refit_the_same_weights_as_passes_run_anew(name, monkeypatch):
    dense, x = CASES[name]()
    coupling = coupled(name)
    masks = {layer.name: torch.arange(layer.size) % 3 > 0 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    paused, anew = resized(dense, kept), resized(dense, kept)
    fits = least_squares(dense, paused, coupling, kept, batches(x), damping=1e-3)
    monkeypatch.setattr(module, "MEMORY", 0)
    assert fits == least_squares(dense, anew, coupling, kept, batches(x), damping=1e-3)
    for key, tensor in anew.state_dict().items():
        assert torch.equal(paused.state_dict()[key], tensor), key
    assert not waiting()


class Chain(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.seen = []

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x)
            self.seen.append(i)
        return x


@pytest.mark.parametrize(("memory", "runs"), [(1 << 30, 1), (0, 4)])
def test_the_first_layer_runs_once_if_the_passes_may_wait(monkeypatch, memory, runs):
    monkeypatch.setattr(module, "MEMORY", memory)
    dense, small = Chain(), Chain()
    data = batches(torch.randn(6, 3))
    names = [f"layers.{i}" for i in range(4)]
    with torch.no_grad(), lockstep(dense, small, dict.fromkeys(names), data) as pairs:
        dense.seen.clear()
        small.seen.clear()
        for name in names:
            assert [pair.batch for pair in pairs.of(name, 1)] == [0, 1, 2]
    assert dense.seen.count(0) == (runs if memory else runs - 1) * len(data)
    assert small.seen.count(0) == (runs if memory else runs - 1) * len(data)


def test_a_change_between_two_modules_is_seen_by_the_second():
    dense, small = Chain(2), Chain(2)
    x = torch.randn(4, 3)
    with torch.no_grad(), lockstep(dense, small, dict.fromkeys(["layers.0", "layers.1"]), batches(x)) as pairs:
        assert torch.equal(torch.cat([pair.x for pair in pairs.of("layers.0", 1)]), x)
        small.layers[0].weight.mul_(2)
        found = torch.cat([pair.x for pair in pairs.of("layers.1", 1)])
    assert torch.equal(found, small.layers[0](x))


class Broken(Chain):
    def forward(self, x):
        if len(x) > 1:
            raise ValueError("broken inside")
        return super().forward(x)


def test_an_error_inside_a_pass_comes_out_and_ends_all_threads():
    x = torch.randn(6, 3)
    with (
        pytest.raises(ValueError, match="broken inside"),
        lockstep(Chain(), Broken(), {"layers.0": None}, batches(x)) as pairs,
    ):
        list(pairs.of("layers.0", 1))
    assert not waiting()


def test_an_interrupt_outside_ends_all_threads():
    def interrupted():
        with lockstep(Chain(), Chain(), dict.fromkeys(["layers.0", "layers.2"]), batches(torch.randn(6, 3))) as pairs:
            list(pairs.of("layers.0", 1))
            assert len(waiting()) == 6
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not waiting()


def test_a_module_that_is_not_called_is_told():
    with lockstep(Chain(), Chain(), dict.fromkeys(["layers.0", "layers.1"]), batches(torch.randn(6, 3))) as pairs:
        list(pairs.of("layers.1", 1))
        with pytest.raises(ArchitectureError, match=r"layers\.0 was not called"):
            list(pairs.of("layers.0", 1))


def test_two_inputs(monkeypatch):
    tokens, values, y = drawn(8, seed=1)
    dense = TwoInputs()
    coupling = couple(dense, (tokens, values))
    masks = {layer.name: torch.arange(layer.size) % 3 > 0 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    paused, anew = resized(dense, kept), resized(dense, kept)
    data = [((tokens[part], values[part]), y[part]) for part in (slice(5), slice(5, 8))]
    fits = least_squares(dense, paused, coupling, kept, data, damping=1e-3)
    assert {fit.module for fit in fits} >= {"mix", "head"}
    monkeypatch.setattr(module, "MEMORY", 0)
    assert fits == least_squares(dense, anew, coupling, kept, data, damping=1e-3)
    assert all(torch.equal(paused.state_dict()[key], tensor) for key, tensor in anew.state_dict().items())
