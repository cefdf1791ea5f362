"""`Attention` is `nn.MultiheadAttention`, in every form of its arguments."""

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision import models as vision

from infprune.coupling.couple import couple
from infprune.models.attention import Attention, explicit
from infprune.proof import prove
from infprune.surgery import cut
from labelled import slices

EXACT = {"rtol": 1e-12, "atol": 1e-13}
WIDTH, HEADS, N, L, S = 12, 3, 4, 5, 6
PARTS = ("query", "key", "value", "out")


def dense(**options):
    """In float64, with biases away from zero."""
    source = nn.MultiheadAttention(WIDTH, HEADS, **options).double()
    for name, p in source.named_parameters():
        if "bias" in name:
            nn.init.normal_(p)
    return source


def inputs(source, *, batched=True, tokens=(L, S, S)):
    """Query, key and value in the layout of the module."""
    widths = (WIDTH, source.kdim or WIDTH, source.vdim or WIDTH)
    made = [torch.randn(N, t, w, dtype=torch.float64) for t, w in zip(tokens, widths, strict=True)]
    if not batched:
        return [x[0] for x in made]
    return made if source.batch_first else [x.transpose(0, 1) for x in made]


@dataclass
class Case:
    """Options of the module, and arguments of its call."""

    options: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    batched: bool = True


generator = torch.Generator().manual_seed(0)
BLIND = torch.rand(L, S, generator=generator) < 0.3
BLIND[:, 0] = False  # every query sees something
BLIND_EACH = torch.rand(N * HEADS, L, S, generator=generator) < 0.3
BLIND_EACH[:, :, 0] = False
SHIFT = torch.randn(L, S, dtype=torch.float64, generator=generator)
SHIFT_EACH = torch.randn(N * HEADS, L, S, dtype=torch.float64, generator=generator)
PADDING = torch.arange(S) >= torch.tensor([[6], [4], [3], [1]])
SHIFTED_PADDING = torch.zeros(N, S, dtype=torch.float64).masked_fill(PADDING, -2.0)

CASES = {
    "batch first": Case({"batch_first": True}),
    "batch second": Case(),
    "unbatched": Case(batched=False),
    "unbatched, batch first": Case({"batch_first": True}, batched=False),
    "no bias": Case({"bias": False, "batch_first": True}),
    "other keys and values": Case({"kdim": 7, "vdim": 5}),
    "other values, no bias": Case({"vdim": 5, "bias": False, "batch_first": True}),
    "boolean mask": Case({"batch_first": True}, {"attn_mask": BLIND}),
    "boolean mask of each head": Case({"batch_first": True}, {"attn_mask": BLIND_EACH}),
    "additive mask": Case({}, {"attn_mask": SHIFT}),
    "additive mask of each head": Case({}, {"attn_mask": SHIFT_EACH}),
    "unbatched, mask of each head": Case({}, {"attn_mask": BLIND_EACH[:HEADS]}, batched=False),
    "padding": Case({"batch_first": True}, {"key_padding_mask": PADDING}),
    "additive padding": Case({}, {"key_padding_mask": SHIFTED_PADDING}),
    "padding, unbatched": Case({}, {"key_padding_mask": PADDING[1]}, batched=False),
    "both masks": Case({"batch_first": True}, {"key_padding_mask": PADDING, "attn_mask": BLIND}),
    "both masks, additive": Case({}, {"key_padding_mask": SHIFTED_PADDING, "attn_mask": SHIFT_EACH}),
}


@pytest.mark.parametrize("weights", ["none", "averaged", "of each head"])
@pytest.mark.parametrize("kind", CASES)
def test_same_result(kind, weights):
    case = CASES[kind]
    source = dense(**case.options).eval()
    x = inputs(source, batched=case.batched)
    arguments = case.arguments | {"need_weights": weights != "none", "average_attn_weights": weights == "averaged"}
    own = Attention(source)
    (found, shown), (truth, true) = own(*x, **arguments), source(*x, **arguments)
    assert_close(found, truth, **EXACT)
    assert (shown is None) == (true is None) == (weights == "none")
    if true is not None:
        assert_close(shown, true, **EXACT)
    assert own.batch_first == source.batch_first
    assert {tuple(getattr(own, part).weight.shape) for part in ("query", "out")} == {(WIDTH, WIDTH)}


def test_a_causal_mask():
    source = dense(batch_first=True).eval()
    x = inputs(source, tokens=(L, L, L))
    mask = torch.ones(L, L).triu(1) > 0
    for hint in (True, False):
        truth = source(*x, attn_mask=mask, is_causal=hint, need_weights=False)[0]
        assert_close(Attention(source)(*x, attn_mask=mask, is_causal=hint, need_weights=False)[0], truth, **EXACT)


def test_gradients_are_the_same():
    source = dense(batch_first=True, kdim=7)
    own, x = Attention(source), inputs(source)
    for module in (source, own):
        module(*x)[0].square().sum().backward()
    assert_close(own.key.weight.grad, source.k_proj_weight.grad, **EXACT)
    assert_close(own.out.bias.grad, source.out_proj.bias.grad, **EXACT)
    assert_close(torch.cat([getattr(own, p).bias.grad for p in PARTS[:3]]), source.in_proj_bias.grad, **EXACT)


# --- state ------------------------------------------------------------------------------------------------------------


def test_nothing_is_shared_with_the_source():
    source = dense()
    own, before = Attention(source), copy.deepcopy(source.state_dict())
    with torch.no_grad():
        for p in own.parameters():
            p.zero_()
    assert all(torch.equal(t, before[name]) for name, t in source.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_mode_are_kept(dtype):
    for mode in (True, False):
        source = dense(dropout=0.3, kdim=7).to(dtype).train(mode)
        own = Attention(source)
        assert {p.dtype for p in own.parameters()} == {dtype}
        assert {m.training for m in own.modules()} == {mode}
        assert (own.dropout, own.num_heads, own.scale) == (0.3, HEADS, (WIDTH // HEADS) ** -0.5)


FLAGS = {
    "everything learns": (lambda _: True, {}),
    "nothing learns": (lambda _: False, {}),
    "only the output": (lambda name: "out_proj" in name, {}),
    "only the weights": (lambda name: "weight" in name, {}),
    "only the biases": (lambda name: "bias" in name, {}),
    "nothing, other keys": (lambda _: False, {"kdim": 7}),
    "only the keys": (lambda name: name == "k_proj_weight", {"kdim": 7}),
    "only the biases, other keys": (lambda name: "bias" in name, {"kdim": 7}),
}


@pytest.mark.parametrize("kind", FLAGS)
def test_what_learns_still_learns_and_nothing_else(kind):
    learns, options = FLAGS[kind]
    source = dense(**options)
    for name, p in source.named_parameters():
        p.requires_grad_(learns(name))
    own = Attention(source)
    names = {  # of the source, for each of the four parts
        "weight": ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
        if options
        else [*["in_proj_weight"] * 3, "out_proj.weight"],
        "bias": [*["in_proj_bias"] * 3, "out_proj.bias"],
    }
    for tensor, sources in names.items():
        flags = [getattr(getattr(own, part), tensor).requires_grad for part in PARTS]
        assert flags == [learns(name) for name in sources], tensor


def test_dropout_falls_on_the_weights_in_training_only():
    source = dense(dropout=0.5, batch_first=True)
    x = inputs(source)
    own = Attention(source.eval())
    assert_close(own(*x)[0], source(*x)[0], **EXACT)
    own.train()
    _, shown = own(*x, average_attn_weights=False)
    _, plain = own.eval()(*x, average_attn_weights=False)
    dropped = shown == 0
    assert 0.3 < float(dropped.double().mean()) < 0.7
    assert_close(shown[~dropped], 2 * plain[~dropped], **EXACT)
    torch.manual_seed(3)
    found, again = own.train()(*x)[0], own(*x)[0]
    assert not torch.equal(found, again)


# --- explicit ---------------------------------------------------------------------------------------------------------


def same(network, *x, exact=EXACT, **arguments):
    """`explicit` changes no result; returns what it made."""
    network = network.double().eval()
    with torch.no_grad():
        truth = network(*x, **arguments)
        found = explicit(copy.deepcopy(network))
        assert_close(found(*x, **arguments), truth, **exact)
    assert not any(type(m) is nn.MultiheadAttention for m in found.modules())
    return found


def layer(**options):
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, **options)  # an even number of heads allows the fast path


TOKENS = torch.randn(N, L, WIDTH, dtype=torch.float64, generator=generator)
LATER = torch.ones(L, L).triu(1) > 0
ENCODERS = {
    "layer": (layer(batch_first=True), {}),
    "layer, norm first": (layer(batch_first=True, norm_first=True), {}),
    "layer, batch second, no bias": (layer(bias=False), {}),
    "layer, masks": (layer(batch_first=True), {"src_mask": LATER, "src_key_padding_mask": PADDING[:, :L]}),
    "layer, causal": (layer(batch_first=True), {"src_mask": LATER, "is_causal": True}),
    "encoder": (nn.TransformerEncoder(layer(batch_first=True), 2), {}),
    "encoder, padding": (nn.TransformerEncoder(layer(batch_first=True), 2), {"src_key_padding_mask": PADDING[:, :L]}),
    "encoder, mask": (nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False), {"mask": LATER[:N, :N]}),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")  # torch's own encoder
@pytest.mark.parametrize("grad", [True, False], ids=["plain path", "fast path"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_inside_torchs_encoders(kind, grad):
    network, arguments = ENCODERS[kind]
    network = copy.deepcopy(network).requires_grad_(grad)
    padding = arguments.get("src_key_padding_mask")
    found = explicit(copy.deepcopy(network.double().eval()))
    with torch.set_grad_enabled(grad):
        truth, y = network(TOKENS, **arguments), found(TOKENS, **arguments)
    if padding is not None:  # torch's fast path leaves zeros at padded tokens
        truth, y = truth.masked_fill(padding[:, :, None], 0.0), y.masked_fill(padding[:, :, None], 0.0)
    assert_close(y, truth, **EXACT)
    assert any(isinstance(m, Attention) for m in found.modules())
    found.train()
    assert torch.isfinite(found(TOKENS, **arguments)).all()


def test_inside_a_decoder():
    decoder = nn.TransformerDecoderLayer(WIDTH, HEADS, 16, batch_first=True)
    found = same(decoder, TOKENS, torch.randn(N, S, WIDTH, dtype=torch.float64), tgt_mask=LATER, tgt_is_causal=True)
    assert isinstance(found.self_attn, Attention)
    assert isinstance(found.multihead_attn, Attention)


def test_inside_torchvisions_vit():
    vit = vision.VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=4)
    nn.init.normal_(vit.heads.head.weight)
    found = same(vit, torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert sum(isinstance(m, Attention) for m in found.modules()) == 2


def test_the_network_itself_may_be_an_attention():
    source = dense()
    found = explicit(source)
    assert isinstance(found, Attention)
    assert explicit(found) is found


class Own(nn.MultiheadAttention):
    """Somebody's subclass, whose forward may be anything."""


def test_those_that_have_no_such_form_are_left_alone():
    network = nn.ModuleDict(
        {
            "plain": dense(),
            "biased": dense(add_bias_kv=True),
            "zero": dense(add_zero_attn=True),
            "own": Own(WIDTH, HEADS),
            "linear": nn.Linear(2, 2),
        }
    )
    before = dict(network.items())
    assert explicit(network) is network
    assert isinstance(network["plain"], Attention)
    assert all(network[name] is before[name] for name in ("biased", "zero", "own", "linear"))
    once = dict(network.named_modules())
    explicit(network)
    assert dict(network.named_modules()) == once


@pytest.mark.parametrize("nested", [True, False])
def test_a_module_that_stands_in_two_places_stays_one(nested):
    shared = dense(batch_first=True)
    network = nn.ModuleDict({"first": shared, "second": nn.Sequential(shared) if nested else shared})
    explicit(network)
    first, second = network["first"], network["second"][0] if nested else network["second"]
    assert isinstance(first, Attention)
    assert first is second


# --- cuts -------------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Attention between two linear layers."""

    def __init__(self, **options):
        super().__init__()
        self.stem, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 3)
        self.attention = Attention(dense(batch_first=True, **options))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.attention(x, x, x, need_weights=False)[0]).mean(1)


@pytest.mark.parametrize("options", [{}, {"bias": False}])
def test_inner_widths_can_be_cut(options):
    net, x = Reader(**options).double().eval(), torch.randn(N, L, 4, dtype=torch.float64)
    coupling = couple(net, x)
    assert [(c.name, c.size, c.multiplied) for c in coupling.prunable] == [
        ("stem", WIDTH, False),
        ("attention.query", WIDTH // HEADS, True),
        ("attention.value", WIDTH // HEADS, False),
    ]
    everywhere = [[h * 4 + d for h in range(HEADS)] for d in range(4)]
    assert slices(coupling.prunable[1])["attention.key.weight", 0][1] == everywhere
    assert slices(coupling.prunable[2])["attention.out.weight", 1][1] == everywhere
    for stay in (torch.arange(4) > 0, torch.arange(4) == 2):
        masks = {"attention.query": stay, "attention.value": stay.flip(0), "stem": torch.arange(WIDTH) % 3 > 0}
        small = cut(net, coupling, masks)
        assert small.attention.scale == net.attention.scale == 0.5
        assert small.attention.query.out_features == HEADS * int(stay.sum())
        assert prove(net, small, coupling, masks, [x]).max_relative_error < 1e-12
        assert (small(x) - net(x)).abs().max() > 1e-3
