"""Trial cuts: what the code of a network follows may be cut, the rest is frozen with what went wrong."""

import copy

import pytest
import torch
from torch import nn

from infprune.coupling.couple import couple
from infprune.proof import blame, difference
from infprune.surgery import cut, silenced
from infprune.trial import settle
from labelled import OUTPUT, Net, slices
from proving import batch, proved

FAILS = "the cut network fails: "
TOKENS = (3, 5)


def net(code, *, numbers=None, **parts):
    """`code` between two linear layers of width 6; `numbers` become attributes."""
    made = Net(lambda s, x: s.head(code(s, s.a(x)).sigmoid().mean(1)), a=nn.Linear(5, 6), head=nn.Linear(6, 2), **parts)
    for name, value in (numbers or {}).items():
        setattr(made, name, value)
    return made.double().eval()


def reasons(coupling):
    return {layer.name: layer.frozen for layer in coupling.layers if layer.frozen != OUTPUT}


def followed(coupling):
    """The attributes that change with each layer."""
    found = {layer.name: [t for t, _ in slices(layer) if "@" in t] for layer in coupling.prunable}
    return {name: attributes for name, attributes in found.items() if attributes}


# --- widths -----------------------------------------------------------------------------------------------------------


def flat(s, x):
    return x.reshape(-1, s.width).reshape(len(x), -1, s.width)


def test_a_code_that_computes_its_widths_is_left_free():
    network = net(lambda _, x: x.reshape(-1, x.shape[-1]).reshape(x.shape))
    assert reasons(settle(network, batch(*TOKENS))) == {"a": None}


@pytest.mark.parametrize(
    "code",
    [
        lambda _, x: x.reshape(-1, 6).reshape(3, -1, 6),
        lambda _, x: x.view(3, 3, 6),
        lambda _, x: x.expand(3, 3, 6),
        lambda _, x: x.unflatten(-1, (2, 3)).flatten(2),
    ],
)
def test_a_literal_width_is_frozen_with_the_error(code):
    coupling = settle(net(code), batch(*TOKENS))
    reason = reasons(coupling)["a"]
    assert reason.startswith(FAILS + "RuntimeError: ")
    assert len(reason.splitlines()) == 1
    assert coupling.prunable == ()


@pytest.mark.parametrize(
    "code",
    [
        lambda _, x: x / x.shape[-1] ** 0.5,
        lambda _, x: torch.cat([x[..., 4:], x[..., 2:4], x[..., :2]], -1),
    ],
)
def test_what_depends_on_the_width_but_never_stops_is_frozen_with_the_difference(code):
    coupling = settle(net(code), batch(*TOKENS))
    assert reasons(coupling)["a"].startswith(FAILS + "relative error ")


ATTRIBUTES = {
    "an integer": (net(flat, numbers={"width": 6}), ["@width"], 4),
    "one in a tuple": (
        net(lambda s, x: x.reshape(-1, *s.shape).reshape(len(x), *s.shape), numbers={"shape": (3, 6)}),
        ["@shape[1]"],
        (3, 4),
    ),
    "one in a list": (net(lambda s, x: x.view(-1, *s.shape), numbers={"shape": [3, 6]}), ["@shape[1]"], [3, 4]),
    "a bound": (
        net(lambda s, x: torch.cat([x[..., s.half :], x[..., : s.half]], -1), numbers={"half": 3}),
        ["@half"],
        2,
    ),
    "a part": (net(lambda s, x: torch.cat(x.split(s.half, -1)[::-1], -1), numbers={"half": 3}), ["@half"], 2),
    "of expand": (net(lambda s, x: x.expand(-1, -1, s.width), numbers={"width": 6}), ["@width"], 4),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_an_attribute_follows_where_that_helps(kind):
    network, names, smaller = ATTRIBUTES[kind]
    before = copy.deepcopy({k: v for k, v in vars(network).items() if not k.startswith("_")})
    coupling = settle(network, batch(*TOKENS))
    (layer,) = coupling.prunable
    proved(network, *TOKENS, coupling=coupling)
    stays = torch.arange(layer.size) % 3 != 0  # 4 of 6, or 2 of 3
    small = cut(network, coupling, {"a": stays})
    word = names[0].removeprefix("@").removesuffix("[1]")
    assert followed(coupling) == {"a": names}
    assert getattr(small, word) == smaller
    assert type(getattr(small, word)) is type(before[word])
    assert {k: v for k, v in vars(network).items() if not k.startswith("_")} == before


class Block(nn.Module):
    """Two linear layers and a view between them; `code(self, x)` is the view."""

    def __init__(self, code, width=6, **numbers):
        super().__init__()
        self.up, self.down, self.code = nn.Linear(5, width), nn.Linear(width, 5), code
        for name, value in numbers.items():
            setattr(self, name, value)

    def forward(self, x):
        return x + self.down(self.code(self, self.up(x)).sigmoid())


def blocks(*made):
    return nn.Sequential(*made, nn.Flatten(), nn.Linear(15, 2)).double().eval()


def scaled(s, x):
    """The width in a view, and the same attribute as a number."""
    return x.view(-1, s.width).view(x.shape[0], -1, s.width) * s.width


def repeated(s, x):
    """An attribute that happens to equal the width."""
    for _ in range(s.steps):
        x = x.view(-1, 3, s.width) * 1.1
    return x


def test_an_attribute_that_means_something_else_does_not_follow():
    network = blocks(Block(flat, width=6), Block(scaled, width=6), Block(flat, width=6))
    for block in network[:3]:
        block.width = 6
    coupling = settle(network, batch(*TOKENS))
    assert followed(coupling) == {"0.up": ["0@width"], "2.up": ["2@width"]}
    reason = reasons(coupling)["1.up"]
    assert reason.startswith(FAILS)
    proved(network, *TOKENS, coupling=coupling)
    small = cut(network, coupling, {layer.name: torch.arange(layer.size) > 1 for layer in coupling.prunable})
    assert [block.width for block in small[:3]] == [4, 6, 4]


def test_of_two_equal_attributes_none_is_guessed():
    network = blocks(Block(repeated, steps=6))
    network[0].width = 6
    coupling = settle(network, batch(*TOKENS))
    assert reasons(coupling)["0.up"].startswith(FAILS)
    assert followed(coupling) == {}


def test_attributes_stay_where_the_code_does_without_them():
    network = blocks(Block(lambda _, x: x.view(x.shape), width=6))
    network[0].width = 6
    coupling = settle(network, batch(*TOKENS))
    assert reasons(coupling)["0.up"] is None
    assert followed(coupling) == {}


# --- the search -------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """Does not run on meta tensors, whatever is cut."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 2)

    def forward(self, x):
        if x.device.type == "meta":
            raise NotImplementedError("no values on meta tensors")
        x = self.first(x).view(-1, 6).sigmoid()
        return self.head(self.second(x).relu()).view(3, 3, 2).mean(1)


def test_code_that_needs_values_is_tried_on_values():
    coupling = settle(Table().double().eval(), batch(*TOKENS))
    found = reasons(coupling)
    assert found["second"] is None
    assert found["first"].startswith(FAILS + "RuntimeError: ")
    assert "meta" not in found["first"]


class Twice(nn.Module):
    """Two modules of one weight, behind a width that stands in the code."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.first, self.second = (nn.Linear(n, 6) for n in (5, 6, 6, 6))
        self.second.weight, self.head = self.first.weight, nn.Linear(6, 2)

    def forward(self, x):
        x = self.a(self.stem(x).view(-1, 3, 6)).relu()
        return self.head(self.second(self.first(x).relu()).relu().mean(1))


def test_tied_weights_are_tried_as_one():
    found = reasons(settle(Twice().double().eval(), batch(*TOKENS)))
    assert found["stem"].startswith(FAILS)
    assert found["a"] is None


def test_without_time_nothing_is_tried_and_the_reason_says_so():
    network = blocks(Block(lambda _, x: x.view(3, 3, 6)), Block(lambda _, x: x, width=4))
    coupling = settle(network, batch(*TOKENS), seconds=0.0)
    assert reasons(coupling)["0.up"] == "not tried for lack of time"
    assert not coupling.prunable
    assert settle(network, batch(*TOKENS)).prunable[0].name == "1.up"
    whole = blocks(Block(lambda _, x: x))
    assert settle(whole, batch(*TOKENS), seconds=0.0).prunable  # one trial of all layers is not a search


def refusing(count):
    """A network that stops when `count` of its four blocks have lost channels."""

    class Refusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Block(lambda _, x: x) for _ in range(4))
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            if sum(block.up.out_features < 6 for block in self.blocks) >= count:
                raise ValueError("too many")
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1))

    return Refusing().double().eval()


@pytest.mark.parametrize(("count", "failing"), [(1, 4), (2, 3), (3, 2), (4, 1)])
def test_what_fails_only_together_is_found(count, failing):
    """Each alone would go; the cut that is left holds, and no more is frozen than needed."""
    network = refusing(count)
    coupling = settle(network, batch(*TOKENS))
    found = {name: reason for name, reason in reasons(coupling).items() if reason and name.endswith("up")}
    assert all(reason.startswith(FAILS + "ValueError: too many") for reason in found.values())
    assert len(found) == failing
    if coupling.prunable:
        proved(network, *TOKENS, coupling=coupling)


def test_blame_names_the_first_layer_that_breaks_what_is_left():
    network, x = refusing(3), batch(*TOKENS)
    coupling = couple(network, x)
    masks = {f"blocks.{i}.up": torch.arange(6) > 0 for i in range(4)}
    assert blame(network, coupling, masks, [x]) == dict.fromkeys(["blocks.2.up", "blocks.3.up"], "ValueError: too many")
    kept = masks | {"blocks.1.up": torch.arange(6) >= 0}  # loses nothing
    assert list(blame(network, coupling, kept, [x])) == ["blocks.3.up"]
    assert blame(network, coupling, {}, [x]) == {}


# --- the network is left as it was ------------------------------------------------------------------------------------


def test_the_dense_network_is_untouched():
    network = blocks(Block(flat), Block(lambda _, x: x.view(3, 3, 6)), nn.Dropout(), Block(scaled))
    network[0].width = network[3].width = 6
    network.train()
    network[1].eval()
    network[0].up.weight.requires_grad_(False)
    x = batch(*TOKENS)
    before, random, given = copy.deepcopy(network), torch.get_rng_state(), x.clone()
    settle(network, x)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in before.parameters()]
    assert (network[0].width, network[3].width) == (6, 6)
    assert {t.device.type for t in network.parameters()} == {"cpu"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, given)


# --- heads ------------------------------------------------------------------------------------------------------------


class Attending(nn.Module):
    """Attention as timm writes it: packed, with attributes for everything."""

    def __init__(self, *, own_scale):
        super().__init__()
        self.num_heads, self.head_dim, self.scale = 3, 4, 0.5 if own_scale else None
        self.qkv, self.proj, self.head = nn.Linear(5, 36), nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x):
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.head((x + self.proj(y.transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim))).mean(1))


@pytest.mark.parametrize(
    ("own_scale", "heads", "attribute", "size"),
    [
        (True, False, "@head_dim", 4),
        (True, True, "@num_heads", 3),
        (False, True, "@num_heads", 3),
        (False, False, "@num_heads", 3),  # it scales with the width of a head, so only whole ones can go
    ],
)
def test_heads_get_narrower_or_fewer(own_scale, heads, attribute, size):
    network = Attending(own_scale=own_scale).double().eval()
    coupling = settle(network, batch(*TOKENS), heads=heads)
    assert followed(coupling) == {"qkv": [attribute]}
    assert coupling.prunable[0].size == size
    proved(network, *TOKENS, coupling=coupling)
    small = cut(network, coupling, {"qkv": torch.arange(size) > 0})
    numbers = {"@head_dim": (3, 3), "@num_heads": (2, 4)}[attribute]
    assert (small.num_heads, small.head_dim) == numbers
    x = batch(*TOKENS)
    assert difference(silenced(network, coupling, {"qkv": torch.arange(size) > 0}), small, [x])[0] < 1e-12
