"""Groups counted by hand, slice by slice."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models as vision

from architectures import coupled
from infprune.coupling.couple import couple
from infprune.errors import ArchitectureError
from labelled import CONSUMER, OUTPUT, PRODUCER, THROUGH, Net, conv, frozen, layers, pooled, slices

# --- whole networks, counted by hand


def test_resnet18_has_2880_groups():
    # Four residual streams of 64, 128, 256, 512 channels, and two inner convolutions of each width.
    coupling = coupled("resnet18")[2]
    assert sum(layer.size for layer in coupling.prunable) == 960 + 2 * 960
    assert [layer.name for layer in coupling.layers if layer.frozen] == ["fc"]
    assert len(coupling.prunable) == 4 + 8
    assert len(coupling.computations) == 20 + 1


def test_vgg11_has_10944_groups():
    coupling = couple(vision.vgg11(init_weights=False).eval(), torch.randn(2, 3, 32, 32))
    assert [layer.size for layer in coupling.prunable] == [64, 128, 256, 256, 512, 512, 512, 512, 4096, 4096]
    assert sum(layer.size for layer in coupling.prunable) == 10_944


def test_alexnet5_groups():
    coupling = coupled("alexnet5")[2]
    assert [layer.size for layer in coupling.prunable] == [32, 64, 128, 256, 256, 512]
    names = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    assert [layer.name for layer in coupling.layers] == [*names, "classifier.0", "classifier.2"]


def test_resnet20_groups():
    # Streams 16, 32, 64; three inner convolutions each. Option A pads 8 + 8 and 16 + 16 channels: those are frozen.
    coupling = coupled("resnet20")[2]
    assert sum(layer.size for layer in coupling.prunable) == 3 * (16 + 32 + 64) + 16
    assert {x.name: x.size for x in coupling.layers if x.frozen} == {
        "layer2.0.conv2": 16,
        "layer3.0.conv2": 32,
        "linear": 10,
    }


# --- exact slices


def test_residual_stream():
    net = Net(
        lambda s, x: s.head(pooled(s.block(y := F.relu(s.norm(s.stem(x)))) + y)),
        stem=conv(3, 4, bias=False),
        norm=nn.BatchNorm2d(4),
        block=nn.Sequential(conv(4, 3), nn.ReLU(), conv(3, 4)),
        head=nn.Linear(4, 2),
    )
    found = layers(net)
    assert list(found) == ["stem", "block.0", "head"]
    everywhere = list(range(4))
    assert slices(found["stem"]) == {
        ("stem.weight", 0): (PRODUCER, everywhere),
        ("norm.weight", 0): (THROUGH, everywhere),
        ("norm.bias", 0): (THROUGH, everywhere),
        ("norm.running_mean", 0): (THROUGH, everywhere),
        ("norm.running_var", 0): (THROUGH, everywhere),
        ("block.0.weight", 1): (CONSUMER, everywhere),
        ("block.2.weight", 0): (PRODUCER, everywhere),
        ("block.2.bias", 0): (PRODUCER, everywhere),
        ("head.weight", 1): (CONSUMER, everywhere),
    }
    assert slices(found["block.0"]) == {
        ("block.0.weight", 0): (PRODUCER, [0, 1, 2]),
        ("block.0.bias", 0): (PRODUCER, [0, 1, 2]),
        ("block.2.weight", 1): (CONSUMER, [0, 1, 2]),
    }
    assert found["head"].frozen == OUTPUT
    assert found["stem"].having(CONSUMER) == found["stem"].slices[5:6] + found["stem"].slices[8:]


def test_computations_in_graph_order():
    net = Net(
        lambda s, x: s.head(s.grouped(F.relu(s.stem(x))).flatten(1)),
        stem=conv(3, 4, stride=2),
        grouped=conv(4, 6, groups=2, bias=False),
        head=nn.Linear(24, 2),
    )
    coupling = couple(net, torch.randn(2, 3, 4, 4))
    assert [(c.weight, c.bias, c.positions, c.groups, c.module) for c in coupling.computations] == [
        ("stem.weight", "stem.bias", 4, 1, "stem"),
        ("grouped.weight", None, 4, 2, "grouped"),
        ("head.weight", "head.bias", 1, 1, "head"),
    ]
    assert {name: tuple(spec.shape) for name, spec in coupling.tensors.items() if spec.parameter} == {
        name: tuple(p.shape) for name, p in net.named_parameters()
    }


def test_conv_flatten_linear():
    net = nn.Sequential(conv(3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 2))
    index = [[4 * c, 4 * c + 1, 4 * c + 2, 4 * c + 3] for c in range(5)]
    assert slices(layers(net)["0"])["4.weight", 1] == (CONSUMER, index)


def test_channels_last_flatten():
    net = Net(lambda s, x: s.b(s.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 5), b=nn.Linear(5 * 16, 2))
    index = [[5 * p + c for p in range(16)] for c in range(5)]
    assert slices(layers(net)["a"])["b.weight", 1] == (CONSUMER, index)


def test_concat_offsets():
    net = Net(
        lambda s, x: s.head(pooled(s.c(torch.cat([s.a(x), x, s.b(x)], 1)))),
        a=conv(3, 2),
        b=conv(3, 4),
        c=conv(9, 2),
        head=nn.Linear(2, 2),
    )
    found = layers(net)
    assert slices(found["a"])["c.weight", 1] == (CONSUMER, [0, 1])
    assert slices(found["b"])["c.weight", 1] == (CONSUMER, [5, 6, 7, 8])
    assert all(layer.frozen is None for name, layer in found.items() if name != "head")


def test_maps_side_by_side_share_their_channels():
    net = Net(
        lambda s, x: s.head(pooled(s.c(torch.cat([s.a(x), s.b(x)], 3)))),
        a=conv(3, 4),
        b=conv(3, 4),
        c=conv(4, 2),
        head=nn.Linear(2, 2),
    )
    found = layers(net)
    assert list(found) == ["a", "c", "head"]
    assert {key for key, (role, _) in slices(found["a"]).items() if role is PRODUCER} == {
        ("a.weight", 0),
        ("a.bias", 0),
        ("b.weight", 0),
        ("b.bias", 0),
    }


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_goes_with_its_input(multiplier):
    net = nn.Sequential(
        conv(3, 4, 1),
        conv(4, 4 * multiplier, groups=4),
        conv(4 * multiplier, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    index = [0, 1, 2, 3] if multiplier == 1 else [[0, 1], [2, 3], [4, 5], [6, 7]]
    found = layers(net)
    assert list(found) == ["0", "2", "5"]
    assert slices(found["0"]) == {
        ("0.weight", 0): (PRODUCER, [0, 1, 2, 3]),
        ("0.bias", 0): (PRODUCER, [0, 1, 2, 3]),
        ("1.weight", 0): (THROUGH, index),
        ("1.bias", 0): (THROUGH, index),
        ("2.weight", 1): (CONSUMER, index),
    }


def test_depthwise_on_the_image_is_frozen():
    net = nn.Sequential(conv(3, 6, groups=3), conv(6, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    coupling = couple(net, torch.randn(2, 3, 4, 4))
    assert [layer.name for layer in coupling.prunable] == ["1"]  # the filters of the image are nobody's to cut


def test_grouped_convolution_ties_the_same_index_of_each_group():
    net = nn.Sequential(
        conv(3, 4), conv(4, 6, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    found = layers(net)
    assert slices(found["0"]) == {
        ("0.weight", 0): (PRODUCER, [[0, 2], [1, 3]]),
        ("0.bias", 0): (PRODUCER, [[0, 2], [1, 3]]),
        ("1.weight", 1): (CONSUMER, [0, 1]),
    }
    assert slices(found["1"]) == {
        ("1.weight", 0): (PRODUCER, [[0, 3], [1, 4], [2, 5]]),
        ("1.bias", 0): (PRODUCER, [[0, 3], [1, 4], [2, 5]]),
        ("5.weight", 1): (CONSUMER, [[0, 3], [1, 4], [2, 5]]),
    }


@pytest.mark.parametrize("name", ["reused", "tied"])
def test_one_weight_called_twice_is_cut_on_both_sides(name):
    module, _, coupling = coupled(name)
    weight = "shared" if name == "reused" else "first"
    stem, head = coupling.layers
    assert slices(stem) == {
        ("stem.weight", 0): (PRODUCER, [0, 1, 2, 3, 4]),
        ("stem.bias", 0): (PRODUCER, [0, 1, 2, 3, 4]),
        (f"{weight}.weight", 0): (PRODUCER, [0, 1, 2, 3, 4]),
        (f"{weight}.weight", 1): (CONSUMER, [0, 1, 2, 3, 4]),
        (f"{weight}.bias", 0): (PRODUCER, [0, 1, 2, 3, 4]),
        ("head.weight", 1): (CONSUMER, [0, 1, 2, 3, 4]),
    }
    assert head.frozen == OUTPUT
    assert [c.module for c in coupling.computations] == ["stem", weight, weight, "head"]
    assert set(coupling.tensors) == dict(module.named_parameters()).keys()


def test_channel_shuffle():
    def code(s, x):
        x = s.a(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return s.head(pooled(s.b(x)))

    net = Net(code, a=conv(3, 6), b=conv(6, 2), head=nn.Linear(2, 2))
    found = slices(layers(net)["a"])
    assert found["a.weight", 0] == (PRODUCER, [[0, 3], [1, 4], [2, 5]])
    assert found["b.weight", 1] == (CONSUMER, [[0, 1], [2, 3], [4, 5]])


def test_split_of_a_dimension_behind_a_dimension_of_one():
    # (N, 1, C) -> (N, 2, C / 2): the code halves the width, so both halves are cut alike.
    net = Net(lambda s, x: s.b(s.a(x).unsqueeze(1).reshape(2, 2, 3).mean(1)), a=nn.Linear(5, 6), b=nn.Linear(3, 2))
    found = slices(layers(net, 5)["a"])
    assert found["a.weight", 0] == (PRODUCER, [[0, 3], [1, 4], [2, 5]])
    assert found["b.weight", 1] == (CONSUMER, [0, 1, 2])


def test_chunks_are_cut_alike():
    def code(s, x):
        value, gate = s.a(x).chunk(2, 1)
        return s.head(pooled(value * torch.sigmoid(gate)))

    found = slices(layers(Net(code, a=conv(3, 6), head=nn.Linear(3, 2)))["a"])
    assert found["a.weight", 0] == (PRODUCER, [[0, 3], [1, 4], [2, 5]])
    assert found["head.weight", 1] == (CONSUMER, [0, 1, 2])


def test_chunks_that_go_their_own_ways_are_cut_alike():
    def code(s, x):
        first, second, third = s.a(x).chunk(3, 1)
        return s.head(pooled(torch.cat([s.b(first), third, second], 1)))

    found = layers(Net(code, a=conv(3, 6), b=conv(2, 4), head=nn.Linear(8, 2)))
    assert slices(found["a"])["a.weight", 0] == (PRODUCER, [[0, 2, 4], [1, 3, 5]])
    assert slices(found["a"])["b.weight", 1] == (CONSUMER, [0, 1])
    assert slices(found["a"])["head.weight", 1] == (CONSUMER, [[4, 6], [5, 7]])
    assert slices(found["b"])["head.weight", 1] == (CONSUMER, [0, 1, 2, 3])


def test_unequal_chunks_are_frozen():
    net = Net(lambda s, x: s.head(pooled(torch.cat(s.a(x).chunk(2, 1), 1))), a=conv(3, 5), head=nn.Linear(5, 2))
    reasons = frozen(net)
    assert set(reasons) == {"a"}
    assert reasons["a"].startswith("unequal parts in chunk")


@pytest.mark.parametrize(
    ("shape", "dim"), [((4, 1, 1), 0), ((1, 4, 1, 1), 1), ((4, 4, 4), 0), ((1, 4, 4, 4), 1), ((4, 4, 1), 0)]
)
@pytest.mark.parametrize("parameter", [True, False])
def test_per_channel_tensor(shape, dim, parameter):
    scale = nn.Parameter(torch.ones(shape)) if parameter else torch.ones(shape)
    net = Net(lambda s, x: s.head(pooled(s.a(x) * s.scale)), a=conv(3, 4), scale=scale, head=nn.Linear(4, 2))
    found = slices(layers(net)["a"])
    assert found["scale", dim] == (THROUGH, [0, 1, 2, 3])
    assert found["head.weight", 1] == (CONSUMER, [0, 1, 2, 3])
    assert len(found) == 4  # the weight, its bias, the scale, the head


def test_position_tensor_leaves_channels_free():
    net = Net(
        lambda s, x: s.head(pooled(s.a(x) + s.position)),
        a=conv(3, 5),
        position=nn.Parameter(torch.randn(1, 1, 4, 4)),
        head=nn.Linear(5, 2),
    )
    assert set(slices(layers(net)["a"])) == {("a.weight", 0), ("a.bias", 0), ("head.weight", 1)}
    assert frozen(net) == {"a": None}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_every_dimension(dimensions):
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
    net = nn.Sequential(make(2, 3, 3), norm(3), nn.ReLU(), make(3, 2, 1), nn.Flatten(), nn.Linear(2 * 2**dimensions, 2))
    found = layers(net, 2, *(4,) * dimensions)
    assert slices(found["0"])["3.weight", 1] == (CONSUMER, [0, 1, 2])
    assert slices(found["3"])["5.weight", 1][1] == [
        list(range(c * 2**dimensions, (c + 1) * 2**dimensions)) for c in range(2)
    ]


# --- the module and the errors


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    module.train()
    module[1].eval()
    module[0].weight.requires_grad_(False)
    before, random = copy.deepcopy(module), torch.get_rng_state()
    couple(module, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert (
        [m.training for m in module.modules()]
        == [m.training for m in before.modules()]
        == [True] * 2
        + [
            False,
            *[True] * 3,
        ]
    )
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.equal(torch.get_rng_state(), random)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


@pytest.mark.parametrize("module", [DataDependent(), nn.Linear(4, 2)], ids=["control flow", "wrong input"])
def test_what_cannot_be_traced_is_an_error_of_one_line(module):
    with pytest.raises(ArchitectureError) as caught:
        couple(module, torch.randn(2, 3))
    message = str(caught.value)
    assert message.startswith(f"cannot trace {type(module).__name__} on an input of shape (2, 3): ")
    assert len(message.splitlines()) == 1
    assert len(message) > len(f"cannot trace {type(module).__name__} on an input of shape (2, 3): ") + 10
    assert module.training
