"""Sections of a dimension, rearrangements of it, and convolutions of every kind."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.coupling.propagation import Options
from infprune.surgery import cut
from labelled import CONSUMER, PRODUCER, THROUGH, Net, conv, pooled, slices
from proving import batch, facts, proved

MAP = (3, 4, 4)
BOTH = ("weight", "bias")


def on_maps(code, made=6, read=None):
    """`code` on the maps of a convolution, then a linear layer on what is left of them."""
    return Net(lambda s, x: s.head(pooled(code(s.a(x)))), a=conv(3, made), head=nn.Linear(read or made, 2))


def rows(parts, width):
    """Index `i` of every part."""
    return [[p * width + i for p in range(parts)] for i in range(width)]


def halves(x):
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


def thirds(x):
    third = x.shape[1] // 3
    return x[:, :third] + x[:, third : 2 * third] * x[:, 2 * third :]


def reverse(parts):
    return torch.cat(tuple(parts)[::-1], 1)


def assert_made_and_read(net, made, read):
    """The one layer of a network on maps: rows of the convolution, columns of the head."""
    (layer,) = proved(net, *MAP).prunable
    assert slices(layer) == {
        **{(f"a.{name}", 0): (PRODUCER, made) for name in BOTH},
        ("head.weight", 1): (CONSUMER, read),
    }


# --- equal parts: the same index of each ------------------------------------------------------------------------------

EQUAL = {  # network, rows of `a`, columns of `head`
    "chunk in two": (on_maps(lambda x: reverse(x.chunk(2, 1))), rows(2, 3), rows(2, 3)),
    "chunk in three": (on_maps(lambda x: reverse(x.chunk(3, -3))), rows(3, 2), rows(3, 2)),
    "glu": (on_maps(lambda x: F.glu(x, 1), 6, 3), rows(2, 3), [0, 1, 2]),
    "gate by hand": (on_maps(lambda x: halves(x)[0] * halves(x)[1].sigmoid(), 6, 3), rows(2, 3), [0, 1, 2]),
    "halves by shape": (on_maps(lambda x: reverse(halves(x))), rows(2, 3), rows(2, 3)),
    "thirds by shape": (on_maps(thirds, 6, 2), rows(3, 2), [0, 1]),
    "split by shape": (on_maps(lambda x: reverse(x.split(x.shape[1] // 3, 1))), rows(3, 2), rows(3, 2)),
    "split in equal sizes": (on_maps(lambda x: reverse(x.split([x.shape[1] // 2] * 2, 1))), rows(2, 3), rows(2, 3)),
    "unflatten": (on_maps(lambda x: x.unflatten(1, (2, -1)).mean(1), 6, 3), rows(2, 3), [0, 1, 2]),
    "channel shuffle": (on_maps(nn.ChannelShuffle(3)), rows(3, 2), [[0, 1, 2], [3, 4, 5]]),
    "pixel shuffle": (on_maps(nn.PixelShuffle(2), 8, 2), [[0, 1, 2, 3], [4, 5, 6, 7]], [0, 1]),
    "pixel unshuffle": (on_maps(nn.PixelUnshuffle(2), 2, 8), [0, 1], [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "zeros beside": (
        on_maps(lambda x: torch.cat([x, torch.zeros_like(x)], 1), 3, 6),
        [0, 1, 2],
        [[0, 3], [1, 4], [2, 5]],
    ),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_parts_lose_the_same_index(kind):
    assert_made_and_read(*EQUAL[kind])


STAY = {
    "roll over space": lambda x: torch.roll(x, (1, -1), (2, 3)),
    "slices over space": lambda x: x[:, :, 1:-1, ::2],
    "select in space": lambda x: x[:, :, 1][:, :, :, None],
    "unbind over space": lambda x: torch.stack(x.unbind(2)[::-1], 2),
    "index over space": lambda x: x[:, :, torch.tensor([[0, 2], [3, 3]])].flatten(2, 3),
    "split over space": lambda x: x.split([1, 3], 3)[1],
    "chunk over space": lambda x: x.chunk(2, 2)[0],
    "ones added": lambda x: x + torch.ones_like(x),
    "instead of itself": lambda x: torch.where(x[:, :, :1] > 0, x, x.flip(3)),
}


@pytest.mark.parametrize("kind", STAY)
def test_positions_may_be_taken_and_moved(kind):
    assert_made_and_read(on_maps(STAY[kind]), [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])


def test_channels_beside_a_constant():
    net = on_maps(lambda x: torch.cat([torch.ones(len(x), 2, 4, 4, dtype=x.dtype), x], 1), 4, 6)
    assert_made_and_read(net, [0, 1, 2, 3], [2, 3, 4, 5])


# --- positions that stand in the code ---------------------------------------------------------------------------------

STAND = {  # a section of ten channels, and how many of the first stay, or of the last
    "0:4": (slice(0, 4), range(4)),
    "2:5": (slice(2, 5), range(5)),
    "7:": (slice(7, None), range(7)),
    "::2": (slice(None, None, 2), range(10)),
    "1::3": (slice(1, None, 3), range(10)),
    "2:8:2": (slice(2, 8, 2), range(10)),
    "-3:": (slice(-3, None), range(7, 10)),
    ":-2": (slice(None, -2), range(8, 10)),
    "-5:-2": (slice(-5, -2), range(5, 10)),
    "3:-3": (slice(3, -3), [0, 1, 2, 7, 8, 9]),
}


@pytest.mark.parametrize("kind", STAND)
def test_a_slice_at_constants_freezes_the_channels_it_counts(kind):
    """Those before a bound that counts from the start, those behind one that counts from the end."""
    section, stay = STAND[kind]

    def code(s, x):
        x = s.a(x)
        return s.some(pooled(x[:, section])) + s.every(pooled(x))

    some = nn.Linear(len(range(10)[section]), 2)
    net = Net(code, a=conv(3, 10), some=some, every=nn.Linear(10, 2)).double().eval()
    coupling = couple(net, batch(*MAP))
    found = {}
    for layer in coupling.layers:
        made = slices(layer).get(("a.weight", 0))
        found |= dict.fromkeys(made[1], layer.frozen) if made else {}
    assert [c for c in range(10) if found[c]] == list(stay)
    assert {found[c].partition(" at ")[0] for c in stay} == {"fixed channel positions in slice.Tensor"}
    if coupling.prunable:
        proved(net, *MAP, coupling=coupling)


FIXED = "fixed channel positions in "
ADDED = "added to a constant, a padding or an input in "
CONSTANT = {
    "split": (lambda x: reverse(x.split([2, 4], 1)), FIXED + "split_with_sizes"),
    "a last part that is shorter": (lambda x: reverse(x.split(4, 1)), FIXED + "split.Tensor"),
    "select": (lambda x: x + x[:, 2].mean(), FIXED + "select.int"),
    "unbind": (lambda x: torch.stack(x.unbind(1)[::-1], 1), FIXED + "unbind.int"),
    "roll": (lambda x: torch.roll(x, 1, 1), FIXED + "roll"),
    "roll of everything": (lambda x: torch.roll(x, 1), "no rule for roll"),
    "index": (lambda x: x[:, torch.tensor([5, 4, 3, 2, 1, 0])], FIXED + "index.Tensor"),
    "list": (lambda x: x[:, [5, 4, 3, 2, 1, 0]], FIXED + "index.Tensor"),
    "two indices": (lambda x: x[:, [0, 1, 2], [0, 1, 3]].repeat(1, 2, 4)[..., None], "no rule for index.Tensor"),
    "order": (lambda x: x.sort(1)[0], "no rule for sort"),
    "zeros of its shape": (lambda x: x + x.new_zeros(x.shape), ADDED + "add.Tensor"),
}


@pytest.mark.parametrize("kind", CONSTANT)
def test_what_stands_in_the_code_is_frozen_with_its_line(kind):
    code, reason = CONSTANT[kind]
    coupling = couple(on_maps(code).double().eval(), batch(*MAP))
    assert set(facts(coupling).values()) == {reason}
    assert not coupling.prunable
    made = [c for layer in coupling.layers if layer.name != "head" for c in slices(layer)["a.weight", 0][1]]
    assert sorted(made) == [0, 1, 2, 3, 4, 5]


def by_attribute(s, x):
    x = s.a(x)
    return s.head(pooled(x[:, : s.half] * x[:, s.half :].sigmoid()))


def test_halves_by_attribute_follow_it():
    net = Net(by_attribute, a=conv(3, 6), head=nn.Linear(3, 2))
    net.half = 3
    coupling = proved(net, *MAP, options=Options(frozenset({"@half"})))
    (layer,) = coupling.prunable
    assert slices(layer)["@half", 0] == (Role.SIZE, [0, 1, 2])
    assert slices(layer)["a.weight", 0] == (PRODUCER, rows(2, 3))
    assert coupling.candidates == {"@half": frozenset({"a"})}
    assert cut(net, coupling, {"a": torch.tensor([True, False, True])}).half == 2
    assert couple(net, batch(*MAP)).candidates == {"@half": frozenset({"a"})}  # known without following it


def test_unequal_parts_follow_attributes_of_their_sizes():
    def code(s, x):
        first, second = s.a(x).split([s.few, s.many], 1)
        return s.head(pooled(torch.cat([second, first.sigmoid()], 1)))

    net = Net(code, a=conv(3, 6), head=nn.Linear(6, 2))
    net.few, net.many = 2, 4
    assert facts(couple(net, batch(*MAP).float())) == {"a": FIXED + "split_with_sizes"}
    coupling = proved(net, *MAP, options=Options(frozenset({"@few", "@many"})))
    first, second = coupling.prunable
    assert (slices(first)["a.weight", 0], slices(first)["@few", 0]) == ((PRODUCER, [0, 1]), (Role.SIZE, [0, 1]))
    assert slices(second)["a.weight", 0] == (PRODUCER, [2, 3, 4, 5])
    assert slices(second)["head.weight", 1] == (CONSUMER, [0, 1, 2, 3])


# --- transposed convolutions, other dimensions, tables ----------------------------------------------------------------


def stacked(first, second, channels):
    """Two layers and a head on the positions' mean."""
    code = lambda s, x: s.head(s.second(s.first(x).sigmoid()).sigmoid().flatten(2).mean(2))  # noqa: E731
    return Net(code, first=first, second=second, head=nn.Linear(channels, 2))


TRANSPOSED = {
    "1d": (stacked(nn.Conv1d(2, 4, 1), nn.ConvTranspose1d(4, 5, 3, stride=2), 5), (2, 6)),
    "2d": (stacked(conv(3, 4), nn.ConvTranspose2d(4, 5, 3, 2, 1, 1), 5), MAP),
    "3d": (stacked(nn.Conv3d(2, 4, 1), nn.ConvTranspose3d(4, 5, 2, dilation=2), 5), (2, 2, 3, 2)),
    "without bias": (stacked(conv(3, 4), nn.ConvTranspose2d(4, 5, 2, bias=False), 5), MAP),
}


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_transposed_weights_have_their_inputs_first(kind):
    net, shape = TRANSPOSED[kind]
    coupling = proved(net, *shape)
    first, second = coupling.prunable
    assert slices(first)["second.weight", 0] == (CONSUMER, [0, 1, 2, 3])
    assert slices(second).pop(("second.bias", 0), None) == (None if kind == "without bias" else (PRODUCER, [*range(5)]))
    assert slices(second)["second.weight", 1] == (PRODUCER, [0, 1, 2, 3, 4])
    assert slices(second)["head.weight", 1] == (CONSUMER, [0, 1, 2, 3, 4])
    call = coupling.computations[1]
    positions = torch.Size(shape[1:]).numel()  # of its input
    assert (call.transposed, call.owned, call.positions, call.groups) == (True, True, positions, 1)
    assert (call.input_dim, call.output_dim) == (0, 1)
    small = cut(net, coupling, {"first": torch.arange(4) > 0, "second": torch.arange(5) > 2})
    assert (small.second.in_channels, small.second.out_channels) == (3, 2)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_grouped_transposed_convolutions_stay_equally_wide(dimensions):
    make, turned = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d))[dimensions - 1]
    net = stacked(make(3, 4, 1), turned(4, 6, 3, groups=2), 6)
    coupling = proved(net, 3, *(4,) * dimensions)
    first, second = coupling.prunable
    assert slices(first)["second.weight", 0] == (CONSUMER, [[0, 2], [1, 3]])
    assert slices(second) == {
        ("second.weight", 1): (PRODUCER, [0, 1, 2]),
        ("second.bias", 0): (PRODUCER, [[0, 3], [1, 4], [2, 5]]),
        ("head.weight", 1): (CONSUMER, [[0, 3], [1, 4], [2, 5]]),
    }
    assert first.gated  # no columns are known for it
    assert not coupling.computations[1].owned
    small = cut(net, coupling, {"first": torch.tensor([True, False]), "second": torch.tensor([True, False, True])})
    assert (small.second.in_channels, small.second.out_channels, small.second.groups) == (2, 4, 2)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_depthwise_transposed_convolutions_go_with_their_input(dimensions):
    make, turned = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d))[dimensions - 1]
    net = stacked(make(3, 4, 1), turned(4, 4, 3, groups=4), 4)
    coupling = proved(net, 3, *(4,) * dimensions)
    (layer,) = coupling.prunable
    assert slices(layer)["second.weight", 0] == slices(layer)["second.bias", 0] == (THROUGH, [0, 1, 2, 3])
    assert not layer.gated
    small = cut(net, coupling, {"first": torch.arange(4) > 1})
    assert (small.second.in_channels, small.second.out_channels, small.second.groups) == (2, 2, 2)


OTHER = {
    "conv1d": (nn.Conv1d(2, 4, 3, padding=1), nn.Conv1d(4, 5, 2), (2, 6)),
    "conv3d": (nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 5, 2), (2, 3, 4, 3)),
    "grouped conv1d": (nn.Conv1d(2, 4, 3), nn.Conv1d(4, 6, 2, groups=2), (2, 6)),
    "depthwise conv3d": (nn.Conv3d(2, 4, 1), nn.Conv3d(4, 4, 2, groups=4), (2, 3, 4, 3)),
}


@pytest.mark.parametrize("kind", OTHER)
def test_convolutions_of_other_dimensions(kind):
    first, second, shape = OTHER[kind]
    coupling = proved(stacked(first, second, second.out_channels), *shape)
    found = slices(coupling.prunable[0])
    index = {"grouped conv1d": [0, 1]}.get(kind, [0, 1, 2, 3])
    role = THROUGH if second.groups == 4 else CONSUMER
    assert found["second.weight", 0 if second.groups == 4 else 1] == (role, index)


class Words(nn.Module):
    """Token ids in two tables: of words and of places."""

    def __init__(self):
        super().__init__()
        self.table, self.places = nn.Embedding(7, 4, padding_idx=0), nn.Embedding(5, 4)
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        tokens = (3 * x).long().abs().clamp(0, 6)
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.inner(x).relu().mean(1))


def test_tables_make_channels():
    coupling = proved(Words(), 5)
    words, inner = coupling.prunable
    assert slices(words) == {
        ("table.weight", 1): (PRODUCER, [0, 1, 2, 3]),
        ("places.weight", 1): (PRODUCER, [0, 1, 2, 3]),
        ("inner.weight", 1): (CONSUMER, [0, 1, 2, 3]),
    }
    small = cut(Words(), coupling, {words.name: torch.arange(4) > 1, inner.name: torch.arange(6) > 0})
    assert (small.table.embedding_dim, small.table.num_embeddings, small.table.padding_idx) == (2, 7, 0)


class Language(nn.Module):
    """A table whose weight also makes the output."""

    def __init__(self):
        super().__init__()
        self.table, self.inner, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x):
        x = self.table((3 * x).long().abs().clamp(0, 6))
        return self.out(x + self.inner(x).relu()).mean(1)


def test_a_table_that_is_also_the_last_weight_is_frozen():
    coupling = couple(Language().eval(), torch.randn(2, 5))
    assert not coupling.prunable
    assert next(x.frozen for x in coupling.layers if x.name == "table") == (
        "table.weight makes these channels and reads them"
    )
