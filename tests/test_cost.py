"""Costs from shapes alone, against networks that are really run and really cut."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from architectures import ARCHITECTURES, coupled, random_masks
from cases import CASES
from infprune.cost import Cost, Meter, count, freed_by_layer, macs_by_layer
from infprune.coupling.couple import couple
from infprune.surgery import cut


def measured(module, x):
    """Cost by running `module`: every call of a convolution or linear layer, from the shapes that flow."""
    macs = 0

    def hook(layer, inputs, output):
        nonlocal macs
        if isinstance(layer, nn.Linear):
            macs += output[0].numel() * inputs[0].shape[-1]
        else:
            window = torch.Size(layer.kernel_size).numel() * inputs[0].shape[1] // layer.groups
            macs += output[0].numel() * window

    handles = [
        m.register_forward_hook(hook) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    tensors = [*module.parameters(), *module.buffers()]
    return Cost(sum(p.numel() for p in module.parameters()), macs, sum(t.numel() * t.element_size() for t in tensors))


@pytest.mark.parametrize("name", [*CASES, *ARCHITECTURES])
def test_counts_what_runs_before_and_after_the_cut(name):
    module, example, coupling = coupled(name)
    assert count(coupling) == measured(module, example)
    masks = random_masks(coupling, seed=8)
    kept = {layer: int(mask.sum()) for layer, mask in masks.items()}
    small = count(coupling, kept)
    assert small == measured(cut(module, coupling, masks), example)
    dense = count(coupling)
    assert small.params < dense.params
    assert small.macs < dense.macs
    assert small.bytes < dense.bytes


def test_hand_counted():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    coupling = couple(net, torch.randn(2, 3, 8, 8))
    params = (4 * 27 + 4) + 8 + (4 * 9 + 4) + (32 + 2)
    # running mean and variance: 8 floats; number of batches tracked: one int64
    assert count(coupling) == Cost(params, macs=16 * 4 * 27 + 4 * 4 * 9 + 32, bytes=4 * params + 4 * 8 + 8)
    params = (1 * 27 + 1) + 2 + (1 * 9 + 1) + (8 + 2)
    assert count(coupling, {"0": 1}) == Cost(params, macs=16 * 27 + 4 * 9 + 8, bytes=4 * params + 4 * 2 + 8)


def test_macs_do_not_depend_on_the_batch_and_bytes_follow_the_dtype():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    coupling = couple(net, torch.randn(2, 7, 3, dtype=torch.float64))
    assert count(coupling) == count(couple(net, torch.randn(5, 7, 3, dtype=torch.float64)))
    assert count(coupling) == Cost(26, macs=7 * (12 + 8), bytes=8 * 26)


def test_macs_by_layer():
    _, _, coupling = coupled("separable")
    # 5 x 5 positions: 6 filters of 2 x 9, 6 depthwise of 9, 6 columns of the 1x1 with its 5 rows
    assert macs_by_layer(coupling) == {
        "0": 25 * (6 * 18 + 6 * 9 + 6 * 5),
        "6": 25 * 6 * 5 + 5 * 4,
        "10": 5 * 4,
    }


@pytest.mark.parametrize("name", [*CASES, *ARCHITECTURES])
def test_what_a_layer_frees_is_the_cost_of_the_network_less_that_without_the_layer(name):
    _, _, coupling = coupled(name)
    dense = count(coupling)
    for layer, freed in freed_by_layer(coupling).items():
        left = count(coupling, {layer: 0})
        assert freed == Cost(dense.params - left.params, dense.macs - left.macs, dense.bytes - left.bytes)


@pytest.mark.parametrize("kind", ["params", "macs", "bytes"])
@pytest.mark.parametrize("name", [*CASES, *ARCHITECTURES])
def test_a_meter_counts_as_channels_go(name, kind):
    _, _, coupling = coupled(name)
    meter, kept = Meter(coupling, kind), {layer.name: layer.size for layer in coupling.prunable}
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        name = list(kept)[int(torch.randint(len(kept), (), generator=generator))]
        gone = min(kept[name] - 1, 2)
        before, others = meter.left, {n: meter.freed(n, 1) for n in kept}
        freed = meter.freed(name, gone)
        kept[name] -= gone
        touched = meter.remove(name, gone)
        assert before - meter.left == freed
        assert meter.left == count(coupling, kept).of(kind)
        assert all(meter.freed(n, 1) == old for n, old in others.items() if n not in touched)


COMPUTED = {
    "convolution": (lambda w, x: F.conv2d(x, w * 2, padding=1), (5, 3, 3, 3), (3, 6, 7), 6 * 7 * 5 * 3 * 9),
    "transposed": (lambda w, x: F.conv_transpose2d(x, w * 2), (3, 5, 2, 2), (3, 6, 7), 6 * 7 * 3 * 5 * 4),
    "linear": (lambda w, x: F.linear(x, w * 2), (5, 4), (6, 4), 6 * 5 * 4),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_computed_weight_costs_what_it_multiplies(kind):
    run, weight, shape, macs = COMPUTED[kind]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.randn(weight)), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(run(self.weight, x).flatten(1).mean(1, keepdim=True).expand(-1, 2))

    assert count(couple(Net().eval(), torch.randn(2, *shape))).macs == macs + 4
