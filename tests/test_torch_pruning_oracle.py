"""A second opinion on coupling: Torch-Pruning's dependency graph, where it works, names the same slices.

It builds its groups from autograd graphs and module types. Where the two differ, ours is proved by surgery.
"""

import warnings

import pytest
import torch
import torch_pruning as tp
from hypothesis import HealthCheck, given, settings
from torch import nn
from torchvision import models as vision

from architectures import coupled, enliven
from generated import Step, build, networks
from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.proof import prove
from infprune.surgery import cut


def theirs(module, graph, owner, channel):
    """The slices of Torch-Pruning's group for one output channel: {(tensor, dimension, position)}."""
    names = {id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
    found = set()
    for dependency, positions in graph.get_pruning_group(owner, out_channels(graph, owner), idxs=[channel]):
        target = dependency.target.module
        for tensor, dim in _cut_by(graph, target, out=graph.is_out_channel_pruning_fn(dependency.handler)):
            found |= {(names[id(tensor)], dim, i % tensor.shape[dim]) for i in positions if id(tensor) in names}
    return found


def out_channels(graph, owner):
    return graph.get_pruner_of_module(owner).prune_out_channels


def _cut_by(graph, target, *, out):
    """The tensors that one of its dependencies cuts, each with the dimension."""
    if isinstance(target, nn.Parameter):
        return [(target, next(d for d, size in enumerate(target.shape) if size > 1))]
    if isinstance(target, nn.Linear | nn.modules.conv._ConvNd):
        depthwise = getattr(target, "groups", 1) > 1 and target.groups == target.in_channels
        swapped = getattr(target, "transposed", False) and not depthwise
        if out or depthwise:
            return [(target.weight, int(swapped)), *([(target.bias, 0)] if target.bias is not None else [])]
        return [(target.weight, int(not swapped))]
    return [(t, 0) for t in (*target.parameters(False), *target.buffers(False)) if t.dim() == 1]


def ours(coupling, weight, channel):
    """Our layer with that output channel of a weight, the channel's number in the layer, and its slices."""
    for layer in coupling.layers:
        for s in layer.having(Role.PRODUCER):
            hits = (s.index == channel).any(1).nonzero() if (s.tensor, s.dim) == (weight, 0) else ()
            if len(hits):
                i = int(hits[0])
                held = [t for t in layer.slices if t.role is not Role.SIZE]
                return layer, i, {(t.tensor, t.dim, int(p)) for t in held for p in t.index[i]}
    return None


def dependencies(module, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that belong to no module it knows
        return tp.DependencyGraph().build_dependency(module, example_inputs=x)


def producers(module, most):
    """Some plain convolutions and linear layers, by name; tied ones by the first."""
    names = dict(module.named_parameters())
    found = [
        (n, m) for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and f"{n}.weight" in names
    ]
    found = [(n, m) for n, m in found if getattr(m, "groups", 1) == 1 and m.weight.shape[0] > 1]
    return found[:: max(1, len(found) // most)]


def compared(module, x, coupling, most=6):
    """Both groups of one channel of some layers that may be cut."""
    graph = dependencies(module, x)
    for name, owner in producers(module, most):
        layer, i, group = ours(coupling, f"{name}.weight", 1)
        if layer.frozen is None:
            yield name, (layer, i), group, theirs(module, graph, owner, 1)


BY_TORCHVISION = {
    "squeezenet": (lambda: vision.squeezenet1_1(num_classes=10), (3, 64, 64)),
    "vgg11": (lambda: vision.vgg11(num_classes=10), (3, 32, 32)),
}


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "densenet", "alexnet5", "cifar vgg11_bn", "digits_resnet"]
)
def test_the_same_groups_in_architectures(name):
    assert_same(*coupled(name), at_least=3)


@pytest.mark.parametrize("name", BY_TORCHVISION)
def test_the_same_groups_in_torchvision(name):
    factory, shape = BY_TORCHVISION[name]
    module, x = factory(), torch.randn(2, *shape)
    enliven(module, x)
    assert_same(module, x, couple(module, x), at_least=3)


def assert_same(module, x, coupling, at_least):
    met = 0
    for name, _, group, other in compared(module, x, coupling):
        assert group == other, name
        met += 1
    assert met >= at_least


PLAIN = (  # where it works
    "conv",
    "conv 1x1",
    "conv 1x3",
    "conv stride 2",
    "conv dilated",
    "conv without bias",
    "depthwise",
    "transposed",
    "transposed depthwise",
    "linear on the last dimension",
    "reused conv",
    "residual block",
    "dense block",
    "batch norm",
    "conv-norm",
    "group norm of one",
    "instance norm, affine",
    "layer norm on the last dimension",
    "excite",
    "own gate",
    "max pool",
    "avg pool",
    "global mean",
    "upsample",
    "pad",
    "add",
    "add through a conv",
    "multiply",
    "maximum",
    "cat",
    "cat of three",
    "gate",
    "one conv for both",
)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(networks(PLAIN))
def test_the_same_groups_in_generated_networks(network):
    module, x = build(*network)
    assert_same(module.float(), x.float(), couple(module, x.float()), at_least=0)


DIFFERENT = {  # and what theirs leaves out or takes instead
    "shuffle": "a channel moves to another place in the consumer, and its partner in the other group stays",
    "shuffle, free": "likewise",
    "shuffle module": "likewise",
    "flip channels": "the consumer's first column for the first channel, not the last",
    "swap halves": "only the first of a channel's two places in the consumer",
    "glu": "the other half of the gate",
    "split, branches": "the same index in the other branch, without which the parts differ in width",
    "pixel shuffle": "the r^2 channels that make one channel",
    "pixel unshuffle": "the r^2 columns of one channel",
    "pad channels": "channels count from the padding on",
    "crop channels": "channels count from the cut on",
    "stack": "columns as if copies were interleaved",
    "depthwise of two": "both outputs of a channel",
    "grouped conv": "the same index in the other group",
    "tied convs": "the second use of the weight",
    "shift by a buffer": "the buffer",
    "embedded positions": "the embedding's columns",
    "attention, free widths": "the other head; and it ties values to queries, which need not go together",
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_where_torch_pruning_differs_ours_is_proved(kind):
    module, x = build((Step(kind, width=1), Step("conv 1x1", width=2)), seed=0)
    module, x = module.float(), x.float()
    coupling = couple(module, x)
    found = list(compared(module, x, coupling))
    assert any(group != other for _, _, group, other in found)
    for name, (layer, i), group, other in found:
        if group != other:
            masks = {layer.name: torch.arange(layer.size) != i}
            assert prove(module, cut(module, coupling, masks), coupling, masks, [x]).holds, name


def test_option_a_shortcuts_are_padded_off_by_some_channels_in_theirs():
    """resnet20 pads channels on both sides: channel 1 of a stage is added to channel 1 + padding of the next."""
    module, x, coupling = coupled("resnet20")
    layer, i, group = ours(coupling, "conv1.weight", 1)
    other = theirs(module, dependencies(module, x), module.conv1, 1)
    assert ("layer2.0.bn2.weight", 0, 9) in group - other
    assert ("layer2.0.bn2.weight", 0, 1) in other - group
    masks = {layer.name: torch.arange(layer.size) != i}
    assert prove(module, cut(module, coupling, masks), coupling, masks, [x]).holds


@pytest.mark.parametrize("kind", ["class token", "multihead", "rotary attention"])
def test_what_torch_pruning_cannot_trace(kind):
    module, x = build((Step(kind, width=1), Step("conv 1x1", width=2)), seed=0)
    module, x = module.float(), x.float()
    coupling = couple(module, x)
    with pytest.raises((ValueError, ZeroDivisionError, TypeError)):
        list(compared(module, x, coupling))
