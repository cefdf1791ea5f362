"""What may not be cut, and why; and what looks like it but may."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infprune.compensation import least_squares
from infprune.coupling.couple import couple
from infprune.surgery import kept_positions, resized
from labelled import CONSUMER, OUTPUT, PRODUCER, Net, conv, frozen, layers, pooled, slices


class OptionA(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = conv(3, 4), conv(4, 5, stride=2), conv(5, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(pooled(self.outer(self.inner(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))


def test_zero_padded_channels_are_frozen():
    found = layers(OptionA())
    assert slices(found["stem"])["outer.weight", 0] == (PRODUCER, [2, 3, 4, 5])
    assert slices(found["outer"])["outer.weight", 0] == (PRODUCER, [0, 1, 6, 7])
    reasons = {name: layer.frozen for name, layer in found.items()}
    assert reasons["stem"] is None
    assert reasons["inner"] is None
    assert reasons["outer"].startswith("added to a constant, a padding or an input in add")
    assert "test_frozen.py:" in reasons["outer"]
    assert "F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))" in reasons["outer"]


def test_spatial_padding_is_not_frozen():
    net = Net(
        lambda s, x: s.head(pooled(s.b(F.pad(s.a(x), (1, 2, 3, 0), value=1.0)))),
        a=conv(3, 4),
        b=conv(4, 3),
        head=nn.Linear(3, 2),
    )
    assert frozen(net) == {"a": None, "b": None}
    assert slices(layers(net)["a"])["b.weight", 1] == (CONSUMER, [0, 1, 2, 3])


class ConstantSlice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 10), conv(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        first = self.a(x)[:, :8]
        return self.head(pooled(first)) + self.head(pooled(self.b(x)))


def test_constant_slice_is_frozen_with_its_line():
    found = layers(ConstantSlice())
    line = ConstantSlice.forward.__code__.co_firstlineno + 1
    reason = f"fixed channel positions in slice.Tensor at test_frozen.py:{line} `first = self.a(x)[:, :8]`"
    # head reads both a[:8] and b, so b shares the fate of the first eight channels; the others could go.
    assert {name: (layer.size, layer.frozen) for name, layer in found.items()} == {
        "a": (8, reason),
        "a#2": (2, "nothing reads it"),
        "head": (2, OUTPUT),
    }
    assert slices(found["a"])["b.weight", 0] == (PRODUCER, list(range(8)))
    assert slices(found["a#2"])["a.weight", 0] == (PRODUCER, [8, 9])


class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.free = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x):
        ordered = self.a(x).sort(-1)[0]
        return self.head(self.b(ordered)), self.free(x)


def test_unknown_operations_freeze_what_reaches_them_and_name_their_line():
    reasons = {name: layer.frozen for name, layer in layers(Sorted(), 3).items()}
    line = Sorted.forward.__code__.co_firstlineno + 1
    assert reasons["a"].startswith(f"no rule for sort at test_frozen.py:{line} `ordered = self.a(x).sort(-1)[0]`")
    assert reasons["b"] is None
    assert reasons["free"] == OUTPUT


def test_softmax_over_channels_is_frozen_and_over_positions_it_is_not():
    def reasons(dim):
        return frozen(nn.Sequential(conv(3, 4), nn.Softmax(dim), conv(4, 5), nn.Flatten(), nn.Linear(5 * 16, 2)))

    assert reasons(1)["0"].startswith("depends on all channels in softmax.int at activation.py:")
    assert reasons(2)["0"] is None


def test_mean_over_channels_is_frozen():
    net = Net(lambda s, x: s.head(s.a(x).mean(1).flatten(1)), a=conv(3, 4), head=nn.Linear(16, 2))
    reasons = frozen(net)
    assert reasons
    assert all(r.startswith("reduced over channels in mean") for r in reasons.values())
    assert sum(layer.size for layer in layers(net).values() if layer.frozen != OUTPUT) == 4


def test_spatial_attention_leaves_channels_free():
    net = Net(
        lambda s, x: s.head(pooled(s.a(x) * torch.sigmoid(s.gate(x)))),
        a=conv(3, 4),
        gate=conv(3, 1),
        head=nn.Linear(4, 2),
    )
    reasons = frozen(net)
    assert reasons.keys() == {"a", "gate"}
    assert reasons["a"] is None
    assert reasons["gate"].startswith("broadcast over channels in mul")
    assert layers(net)["a"].size == 4


def test_squeeze_and_excitation():
    net = Net(
        lambda s, x: s.head(pooled((y := s.a(x)) * torch.sigmoid(s.up(F.relu(s.down(y.mean((2, 3), keepdim=True))))))),
        a=conv(3, 6),
        down=conv(6, 2, 1),
        up=conv(2, 6, 1),
        head=nn.Linear(6, 2),
    )
    assert frozen(net) == {"a": None, "down": None}
    found = slices(layers(net)["a"])
    assert found["up.weight", 0] == (PRODUCER, list(range(6)))
    assert found["down.weight", 1] == (CONSUMER, list(range(6)))


FUNCTIONAL = {
    "computed weight": lambda s, x: s.head(pooled(F.conv2d(x, s.own.weight * 2, s.own.bias, padding=1))),
    "computed bias": lambda s, x: s.head(pooled(F.conv2d(x, s.own.weight, s.own.bias * 2, padding=1))),
    "weight read as a value": lambda s, x: s.head(pooled(s.own(x)) + s.own.weight.mean()),
    "computed norm": lambda s, x: s.head(pooled(F.batch_norm(s.own(x), s.stat * 2, s.var))),
}


@pytest.mark.parametrize("kind", FUNCTIONAL)
def test_weights_that_no_module_owns_alone_are_frozen(kind):
    net = Net(
        FUNCTIONAL[kind],
        own=conv(3, 4),
        stat=torch.zeros(4),
        var=torch.ones(4),
        head=nn.Linear(4, 2),
    )
    coupling = couple(net, torch.randn(2, 3, 4, 4))
    assert not coupling.prunable
    assert coupling.computations[-1].module == "head"


def test_a_bare_parameter_produces_channels_that_a_module_reads():
    net = Net(
        lambda s, x: s.head(pooled(F.conv2d(x, s.bare))),
        bare=nn.Parameter(torch.randn(4, 3, 3, 3)),
        head=nn.Linear(4, 2),
    )
    found = layers(net)["bare"]
    assert (found.frozen, found.gated) == (None, False)
    assert slices(found) == {
        ("bare", 0): (PRODUCER, [0, 1, 2, 3]),
        ("head.weight", 1): (CONSUMER, [0, 1, 2, 3]),
    }


def test_channels_that_no_module_makes_nor_reads_are_frozen():
    net = Net(
        lambda s, x: pooled(F.conv2d(F.conv2d(x, s.first), s.second)) @ s.last,
        first=nn.Parameter(torch.randn(4, 3, 1, 1)),
        second=nn.Parameter(torch.randn(5, 4, 1, 1)),
        last=nn.Parameter(torch.randn(5, 2)),
    )
    assert frozen(net) == {
        "first": "first is used outside a module of its own, and so is what reads it",
        "second": "second is used outside a module of its own, and so is what reads it",
    }


def test_sum_with_the_input_or_a_constant_is_frozen():
    image = Net(lambda s, x: s.head(pooled(s.a(x) + x)), a=conv(3, 3), head=nn.Linear(3, 2))
    constant = Net(
        lambda s, x: s.head(pooled(s.a(x)) + torch.tensor([1.0, 2.0, 3.0])), a=conv(3, 3), head=nn.Linear(3, 2)
    )
    for net in (image, constant):
        assert frozen(net)["a"].startswith("added to a constant, a padding or an input in add")
    number = Net(lambda s, x: s.head(pooled(s.a(x)) * 2 + 1 + torch.tensor(0.5)), a=conv(3, 3), head=nn.Linear(3, 2))
    assert frozen(number) == {"a": None}


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float64).to(torch.float32),
        lambda x: x.contiguous(),
        lambda x: F.dropout(x, training=False),
        lambda x: F.relu_(x).add_(1),
        lambda x: F.avg_pool2d(F.max_pool2d(x, 3, 1, 1), 3, 1, 1),
        lambda x: x.clamp(0, 6) / 6,
        lambda x: x.flatten(2).unflatten(2, (4, 4)),
        lambda x: x.transpose(1, 3).transpose(3, 1),
        lambda x: x.unsqueeze(1).squeeze(1),
        lambda x: x[:, :, 1:, ::2],
        lambda x: x.narrow(2, 0, 3),
        lambda x: torch.stack([x, x]).mean(0),
        lambda x: x.mean(0, keepdim=True).expand_as(x),
    ],
)
def test_what_leaves_channels_in_place(move):
    net = Net(lambda s, x: s.head(pooled(move(s.a(x)))), a=conv(3, 4), head=nn.Linear(4, 2))
    found = layers(net)["a"]
    assert found.frozen is None
    assert slices(found)["head.weight", 1] == (CONSUMER, [0, 1, 2, 3])


def test_flip_over_channels():
    net = Net(lambda s, x: s.head(pooled(s.a(x).flip(1))), a=conv(3, 4), head=nn.Linear(4, 2))
    assert slices(layers(net)["a"])["head.weight", 1] == (CONSUMER, [3, 2, 1, 0])


class NoBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.inner = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.inner(self.first(x)[0]).mean((1, 2)))


def test_a_shape_that_a_rule_does_not_expect_freezes():
    coupling = couple(NoBatch().eval(), torch.randn(2, 3, 4, 4))
    reasons = {layer.name: layer.frozen for layer in coupling.layers}
    assert "select" in reasons["first"] or "conv2d" in reasons["first"]
    assert coupling.prunable == ()


class Borrowed(nn.Module):
    """Uses the weight of a module that it never calls."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(F.linear(self.first(x).relu(), self.second.weight).relu())


def test_a_weight_used_without_calling_its_module_is_known():
    coupling = couple(Borrowed().eval(), torch.randn(2, 4))
    found = {layer.name: (layer.frozen, layer.gated) for layer in coupling.layers}
    assert found == {"first": (None, True), "second": (None, False), "head": (OUTPUT, False)}
    assert {call.weight: call.owned for call in coupling.computations}["second.weight"] is False


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0, norm_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean(1))


def test_an_attention_block_is_compensated_without_a_crash():
    dense = Encoder().eval()
    x = torch.randn(6, 5, 4)
    coupling = couple(dense, x)
    masks = {layer.name: torch.arange(layer.size) % 2 > 0 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    small = resized(dense, kept)
    batches = [(part, torch.zeros(2, dtype=torch.int64)) for part in x.split(2)]
    least_squares(dense, small, coupling, kept, batches)
    assert small(x).isfinite().all()
