"""The proof can fail, and says where."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from architectures import coupled, random_masks
from infprune.coupling.couple import couple
from infprune.coupling.groups import Coupling, Role
from infprune.imports import one_line
from infprune.proof import TOLERANCE, Proof, prove
from infprune.surgery import cut, silenced


def swapped(coupling: Coupling, layer_name: str) -> Coupling:
    """The coupling with the channels of one consumer slice shifted by one."""
    layers = []
    for layer in coupling.layers:
        if layer.name == layer_name:
            consumer = layer.having(Role.CONSUMER)[0]
            wrong = replace(consumer, index=consumer.index.roll(1, 0))
            layer = replace(layer, slices=tuple(wrong if s is consumer else s for s in layer.slices))  # noqa: PLW2901
        layers.append(layer)
    return replace(coupling, layers=tuple(layers))


@pytest.mark.parametrize("name", ["plain", "residual", "concat", "separable", "grouped", "digits_resnet"])
def test_a_wrong_coupling_is_found_and_named(name):
    module, example, coupling = coupled(name)
    masks = random_masks(coupling, seed=4, share=0.5)
    for victim in (coupling.prunable[0].name, coupling.prunable[-1].name):
        wrong = swapped(coupling, victim)
        proof = prove(module, cut(module, wrong, masks), wrong, masks, [example])
        assert not proof.holds
        assert 1e-3 < proof.max_relative_error < math.inf
        assert [failed for failed, _ in proof.failed] == [victim]
        assert proof.failed[0][1].startswith("relative error ")


def test_a_missing_slice_is_a_failing_forward():
    module, example, coupling = coupled("plain")
    broken = replace(coupling, layers=tuple(replace(x, slices=x.slices[:1]) for x in coupling.layers))
    masks = {"0": torch.arange(6) < 4, "2": torch.ones(5, dtype=torch.bool)}
    proof = prove(module, cut(module, broken, masks), broken, masks, [example])
    assert proof.max_relative_error == math.inf
    assert not proof.holds
    assert [name for name, _ in proof.failed] == ["0"]
    assert len(proof.failed[0][1].splitlines()) == 1
    assert "size" in proof.failed[0][1]


def small_net():
    module, example, coupling = coupled("mlp")
    masks = random_masks(coupling, seed=0)
    return module, example, coupling, masks, cut(module, coupling, masks)


@pytest.mark.parametrize("where", ["small", "first input", "last input"])
def test_nan_does_not_hold(where):
    module, example, coupling, masks, small = small_net()
    inputs = [example.clone(), example.clone()]
    if where == "small":
        with torch.no_grad():
            small[-1].bias[0] = math.nan
    else:
        inputs[0 if where == "first input" else 1][0, 0] = math.nan
    proof = prove(module, small, coupling, masks, inputs)
    assert not proof.holds
    assert proof.max_relative_error == math.inf
    # A number that is not one has no single layer to blame, unless every layer's own cut shows it too.
    assert {reason for _, reason in proof.failed} == {"NaN in the outputs"}


def test_infinite_outputs_do_not_hold():
    module, example, coupling, masks, small = small_net()
    with torch.no_grad():
        small[-1].bias[0] = math.inf
    assert not prove(module, small, coupling, masks, [example]).holds


def test_shape_mismatch_does_not_hold():
    module, example, coupling, masks, small = small_net()
    proof = prove(module, nn.Sequential(small, nn.Linear(4, 3)), coupling, masks, [example])
    assert proof == Proof(math.inf, (("", "output shapes (6, 3), expected (6, 4)"),))


def test_wrong_weights_have_no_layer_to_name():
    module, example, coupling, masks, small = small_net()
    with torch.no_grad():
        small[-1].bias += 0.1
    proof = prove(module, small, coupling, masks, [example])
    scale = float(_silent(module, coupling, masks, example).abs().max())
    assert proof.max_relative_error == pytest.approx(0.1 / scale, rel=1e-4)
    assert proof.failed == (("", f"relative error {proof.max_relative_error:.1e} of the joint cut"),)


def _silent(module, coupling, masks, x):
    with torch.no_grad():
        return silenced(module, coupling, masks)(x)


def test_the_worst_input_counts():
    module, example, coupling, masks, small = small_net()
    with torch.no_grad():
        small[0].weight *= 1.01
    alone = [prove(module, small, coupling, masks, [x]).max_relative_error for x in (example, 3 * example)]
    both = [
        prove(module, small, coupling, masks, list(pair)) for pair in ((example, 3 * example), (3 * example, example))
    ]
    assert alone[0] != alone[1]
    assert both[0].max_relative_error == both[1].max_relative_error == max(alone) > TOLERANCE


def test_tolerance_is_the_verdict():
    assert Proof(TOLERANCE, ()).holds
    assert not Proof(1.01 * TOLERANCE, ()).holds


def test_modes_and_weights_are_left_alone():
    module, example, coupling = coupled("separable")
    masks = random_masks(coupling, seed=0)
    small = cut(module, coupling, masks)
    small.train()
    before = {n: t.clone() for n, t in small.state_dict().items()}
    assert prove(module, small, coupling, masks, [example]).holds  # batch norm in eval mode, whatever the mode was
    assert small.training
    assert not module.training
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())


class Raising(nn.Module):
    """Its code fails once the first layer is narrower."""

    def __init__(self, error):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.error = error

    def forward(self, x):
        h = self.first(x)
        if h.shape[1] < 6:
            raise self.error
        return self.last(h)


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), KeyError("5"), NotImplementedError(), OverflowError()])
def test_whatever_the_code_raises_is_the_reason(error):
    module, x = Raising(error).eval(), torch.randn(2, 4)
    coupling = couple(module, x)
    masks = {"first": torch.arange(6) < 5}
    proof = prove(module, cut(module, coupling, masks), coupling, masks, [x])
    assert proof.failed == (("first", one_line(error)),)


def test_memory_that_runs_out_is_no_fault_of_a_layer():
    module, x = Raising(RuntimeError("DefaultCPUAllocator: can't allocate memory")).eval(), torch.randn(2, 4)
    coupling = couple(module, x)
    masks = {"first": torch.arange(6) < 5}
    with pytest.raises(RuntimeError, match="allocate memory"):
        prove(module, cut(module, coupling, masks), coupling, masks, [x])
