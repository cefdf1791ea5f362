"""Mask gradients of single weights, from the gradients that a training step has anyway."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from cases import CASES, LABELS, coupled
from infprune.curvature.products import filters
from infprune.joint.weight_influence import WeightInfluence


def observed(module, layers, batches, decay):
    made = WeightInfluence(layers, decay)
    for x, y in batches:
        module.zero_grad()
        F.cross_entropy(module(x), y).backward()
        made.observe(module, [layer.name for layer in layers])
    return made


@pytest.mark.parametrize("name", CASES)
def test_weights_and_channels(name, device):
    module, x = CASES[name]()
    module, x, layers = module.double(), x.double(), coupled(name).prunable
    truth = {
        layer.name: torch.cat(
            [
                reference.mask_gradients(module, x, LABELS, s.tensor).movedim(s.dim, 0)[s.index].reshape(layer.size, -1)
                for s in filters(layer)
            ],
            1,
        )
        for layer in layers
    }
    found = observed(module.to(device), layers, [(x.to(device), LABELS.to(device))], 0.9)
    for layer, expected in truth.items():
        assert expected.max() > 1e-6
        assert_close(found.weights[layer].cpu(), expected, rtol=1e-9, atol=1e-13)
        assert bool((found.channels[layer].cpu() <= expected.sum(1) + 1e-12).all())  # |sum| <= sum of |.|


def test_absolute_values_are_averaged_over_batches_first_plainly_then_with_decay():
    module, x = CASES["mlp"]()
    module, x, layers = module.double(), x.double(), coupled("mlp").prunable
    batches = [(x[i : i + 2], LABELS[i : i + 2]) for i in (0, 2, 4)]
    each = [observed(module, layers, [batch], 0.5) for batch in batches]
    for kind in ("weights", "channels"):
        a, b, c = (getattr(e, kind)["0"] for e in each)
        together = getattr(observed(module, layers, batches, 0.5), kind)["0"]
        assert_close(together, ((a + b) / 2 + c) / 2)  # steps 1, 1/2, then 1 - decay = 1/2 > 1/3


def test_weights_are_kept_of_watched_layers_only():
    module, x = CASES["mlp"]()
    layers = coupled("mlp").prunable
    made = WeightInfluence(layers, 0.9)
    F.cross_entropy(module(x), LABELS).backward()
    made.observe(module, [layers[0].name])
    assert set(made.weights) == {layers[0].name}
    assert set(made.channels) == {layer.name for layer in layers}


def test_a_filter_without_a_gradient_has_none():
    module, x = CASES["mlp"]()
    layers = coupled("mlp").prunable
    module[0].weight.requires_grad_(False)
    F.cross_entropy(module(x), LABELS).backward()
    made = WeightInfluence(layers, 0.9)
    made.observe(module, [layers[0].name])
    assert float(made.channels[layers[0].name].max()) == 0.0
