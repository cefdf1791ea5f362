import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close

from cases import CASES, LABELS, coupled
from infprune.coupling.groups import Role
from infprune.curvature.products import MaskGradientObserver
from infprune.curvature.sweep import Sweep


def mask_gradients(module, layers, batches):
    observer = MaskGradientObserver(module, layers)
    Sweep(module, [], [observer]).run(batches, seed=0, draws=1)
    return observer.result()


def explicit(module, layer, x, y):
    """|sum over a channel's filters of dL(M . W)/dM| at M = 1, L the mean loss of the batch."""
    weights = {s.tensor: s.index for s in layer.having(Role.PRODUCER) if s.tensor.endswith("weight")}
    parameters = dict(module.named_parameters())
    masks = {name: torch.ones_like(parameters[name], requires_grad=True) for name in weights}
    loss = F.cross_entropy(functional_call(module, {n: m * parameters[n] for n, m in masks.items()}, (x,)), y)
    gradients = dict(zip(masks, torch.autograd.grad(loss, list(masks.values())), strict=True))
    total = torch.zeros(layer.size, dtype=x.dtype)
    for name, index in weights.items():
        for c, rows in enumerate(index.tolist()):
            total[c] += sum(gradients[name][row].sum() for row in rows)
    return total.abs()


@pytest.mark.parametrize("name", CASES)
def test_mask_gradient_is_the_gradient_of_a_mask(name, device):
    module, x = CASES[name]()
    module, x, layers = module.double(), x.double(), coupled(name).prunable
    batches = [(x[:4], LABELS[:4]), (x[4:], LABELS[4:])]
    truth = {layer.name: sum(explicit(module, layer, *batch) for batch in batches) / 2 for layer in layers}
    on_device = [(a.to(device), b.to(device)) for a, b in batches]
    found = mask_gradients(module.to(device), layers, on_device)
    assert found.keys() == truth.keys()
    for layer, value in truth.items():
        assert value.max() > 1e-5
        assert_close(found[layer].cpu(), value, rtol=1e-9, atol=1e-12)


def test_the_absolute_value_is_taken_per_batch():
    """Where the gradients of two batches cancel, the mean of absolute values stays."""
    module, x = CASES["mlp"]()
    module, x, layers = module.double(), x.double(), coupled("mlp").prunable
    batches = [(x, LABELS), (x, (LABELS + 1) % 4)]
    found = mask_gradients(module, layers, batches)
    apart = [mask_gradients(module, layers, [batch]) for batch in batches]
    joint = mask_gradients(module, layers, [(torch.cat([x, x]), torch.cat([LABELS, (LABELS + 1) % 4]))])
    for layer, value in found.items():
        assert_close(value, (apart[0][layer] + apart[1][layer]) / 2, rtol=1e-12, atol=1e-14)
        assert bool((joint[layer] <= value + 1e-14).all())
    assert any(bool((joint[layer] < 0.5 * value).any()) for layer, value in found.items())
