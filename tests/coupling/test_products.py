"""Products of two activations, and of an activation with a weight that no module holds."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.surgery import cut
from labelled import CONSUMER, PRODUCER, THROUGH, Net, slices
from proving import HEADS, batch, facts, proved

SIZE = Role.SIZE
HEAD = 2  # width of a head


def weight(*shape):
    return nn.Parameter(torch.randn(*shape))


# --- query times key: one pair of modules, many ways to write it ------------------------------------------------------


def attend(product):
    return Net(
        lambda s, x: s.head(product(s.q(x), s.k(x), s.v(x)).sum(-2)),
        q=nn.Linear(5, 4),
        k=nn.Linear(5, 4),
        v=nn.Linear(5, 3),
        head=nn.Linear(3, 2),
    )


def weighed(logits, v):
    return (0.5 * logits).softmax(-1) @ v


PRODUCTS = {
    "@": lambda q, k, v: weighed(q @ k.transpose(1, 2), v),
    "mT": lambda q, k, v: weighed(q @ k.mT, v),
    "mT of the other": lambda q, k, v: weighed((k @ q.mT).mT, v),
    "bmm": lambda q, k, v: torch.bmm(torch.bmm(q, k.permute(0, 2, 1)).softmax(-1), v),
    "matmul": lambda q, k, v: torch.matmul(torch.matmul(q, k.transpose(-1, -2)).sigmoid(), v),
    "einsum": lambda q, k, v: torch.einsum("nqk,nkd->nqd", torch.einsum("n q d, n k d -> n q k", q, k).tanh(), v),
    "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.5),
    "sdpa with a mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, q.new_ones(3, 3).tril() > 0, scale=2),
    "causal sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5),
    "both sides broadcast": lambda q, k, v: weighed(q[:, None] @ k[:, None].transpose(2, 3), v[:, None])[:, 0],
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_query_and_key_go_together_and_value_alone(kind):
    coupling = proved(attend(PRODUCTS[kind]), 3, 5)
    pair, value = coupling.prunable
    assert slices(pair) == {(f"{m}.{t}", 0): (PRODUCER, [0, 1, 2, 3]) for m in "qk" for t in ("weight", "bias")}
    assert (pair.multiplied, pair.gated, pair.inexact) == (True, True, None)
    assert slices(value) == {
        ("v.weight", 0): (PRODUCER, [0, 1, 2]),
        ("v.bias", 0): (PRODUCER, [0, 1, 2]),
        ("head.weight", 1): (CONSUMER, [0, 1, 2]),
    }
    assert (value.multiplied, value.gated) == (False, False)


def test_mm_of_two_activations():
    net = attend(lambda q, k, v: torch.mm(torch.mm(q, k.t()).tanh(), v)[:, None])
    assert [(x.name, x.multiplied) for x in proved(net, 5).prunable] == [("q", True), ("v", False)]


def test_attention_that_scales_by_its_own_width():
    coupling = proved(attend(F.scaled_dot_product_attention), 3, 5)
    assert facts(coupling) == {"q": "scaled by 1/sqrt(width) in scaled_dot_product_attention", "v": None}
    assert coupling.scaled == {""}  # the module whose code calls it


# --- heads ------------------------------------------------------------------------------------------------------------


def packed(s, x, weigh=None):
    n, t, _ = x.shape
    qkv = s.qkv(x).reshape(n, t, 3, s.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weigh = weigh or (lambda _, q, k, v: weighed(q @ k.transpose(-2, -1), v))
    return s.head(weigh(s, q, k, v).transpose(1, 2).flatten(2).sum(1))


def packed_net(heads, weigh=None, **parts):
    width = heads * HEAD
    net = Net(lambda s, x: packed(s, x, weigh), qkv=nn.Linear(5, 3 * width), head=nn.Linear(width, 2), **parts)
    net.num_heads = heads
    return net


def test_packed_heads_lose_the_same_index_everywhere():
    (layer,) = proved(packed_net(3), 4, 5).prunable
    rows = [[d + HEAD * i for i in range(9)] for d in range(HEAD)]
    assert slices(layer) == {
        ("qkv.weight", 0): (PRODUCER, rows),
        ("qkv.bias", 0): (PRODUCER, rows),
        ("head.weight", 1): (CONSUMER, [[0, 2, 4], [1, 3, 5]]),
    }
    assert (layer.multiplied, layer.gated) == (True, True)


def tiled(part, heads):
    """Positions of each head in the rows of `part` stacked projections."""
    return [[p * heads * HEAD + h * HEAD + d for p in range(part) for d in range(HEAD)] for h in range(heads)]


def biased(s, q, k, v):
    t = q.shape[-2]
    table = s.table[s.index.view(-1)].view(t, t, -1).permute(2, 0, 1)
    return weighed(q @ k.transpose(-2, -1) + table.unsqueeze(0), v)


def biased_sdpa(s, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=s.table[s.index].permute(2, 0, 1), scale=0.5)


def table(heads):
    """A relative position bias of four tokens, `(distances, heads)`, and where each pair of tokens finds its own."""
    return {"table": weight(7, heads), "index": torch.arange(4)[:, None] - torch.arange(4) + 3}


WHOLE = {
    "packed": (packed_net(2), 2),
    "packed, as many heads as parts": (packed_net(3), 3),
    "packed sdpa": (packed_net(2, lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v)), 2),
    "packed sdpa, scale given": (packed_net(3, lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=2)), 3),
    "bias table": (packed_net(3, biased, **table(3)), 3),
    "bias table in sdpa": (packed_net(3, biased_sdpa, **table(3)), 3),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_heads_go_and_the_attribute_follows(kind):
    net, heads = WHOLE[kind]
    coupling = proved(net, 4, 5, options=HEADS)
    (layer,) = coupling.prunable
    found = slices(layer)
    assert found.pop(("table", 1), None) == ((THROUGH, list(range(heads))) if "table" in kind else None)
    assert found == {
        ("qkv.weight", 0): (PRODUCER, tiled(3, heads)),
        ("qkv.bias", 0): (PRODUCER, tiled(3, heads)),
        ("@num_heads", 0): (SIZE, list(range(heads))),
        ("head.weight", 1): (CONSUMER, tiled(1, heads)),
    }
    assert (layer.multiplied, layer.gated) == (False, False)  # nothing is summed over heads but by the module `head`
    small = cut(net, coupling, {"qkv": torch.arange(heads) > 0})
    assert (small.num_heads, small.qkv.out_features) == (heads - 1, 6 * (heads - 1))
    assert net.num_heads == heads


@pytest.mark.parametrize("weigh", [biased, biased_sdpa])
def test_a_bias_table_stays_whole_when_heads_get_narrower(weigh):
    (layer,) = proved(packed_net(2, weigh, **table(2)), 4, 5).prunable
    assert {tensor for tensor, _ in slices(layer)} == {"qkv.weight", "qkv.bias", "head.weight"}
    assert layer.multiplied


def test_separate_projections_by_heads():
    def code(s, x):
        q, k, v = (m(x).unflatten(-1, (s.num_heads, -1)).transpose(1, 2) for m in (s.q, s.k, s.v))
        return s.head(weighed(q @ k.transpose(-2, -1), v).transpose(1, 2).flatten(2).sum(1))

    net = Net(code, q=nn.Linear(5, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 6), head=nn.Linear(6, 2))
    net.num_heads = 3
    pair, value = proved(net, 4, 5).prunable
    everywhere = [[0, 2, 4], [1, 3, 5]]
    assert [pair.multiplied, value.multiplied] == [True, False]
    assert slices(pair)["k.weight", 0] == slices(value)["v.bias", 0] == (PRODUCER, everywhere)
    assert slices(value)["head.weight", 1] == (CONSUMER, everywhere)
    (together,) = proved(net, 4, 5, options=HEADS).prunable
    assert slices(together) == {
        **{(f"{m}.{t}", 0): (PRODUCER, tiled(1, 3)) for m in "qkv" for t in ("weight", "bias")},
        ("@num_heads", 0): (SIZE, [0, 1, 2]),
        ("head.weight", 1): (CONSUMER, tiled(1, 3)),
    }


# --- weights that no module holds -------------------------------------------------------------------------------------

WEIGHTS = {  # code, shape of the weight, its dimension that reads
    "matmul": (lambda s, x: s.a(x) @ s.w, (4, 3), 0),
    "matmul, weight first": (lambda s, x: (s.w @ s.a(x).transpose(1, 2)).transpose(1, 2), (3, 4), 1),
    "mm": (lambda s, x: torch.mm(s.a(x).flatten(0, 1), s.w)[None], (4, 3), 0),
    "einsum": (lambda s, x: torch.einsum("ntc,cd->ntd", s.a(x), s.w), (4, 3), 0),
    "einsum, weight first": (lambda s, x: torch.einsum("dc,ntc->tnd", s.w, s.a(x)), (3, 4), 1),
    "linear": (lambda s, x: F.linear(s.a(x), s.w), (3, 4), 1),
    "conv1d": (lambda s, x: F.conv1d(s.a(x).transpose(1, 2), s.w).transpose(1, 2), (3, 4, 2), 1),
    "transposed": (lambda s, x: F.conv_transpose1d(s.a(x).transpose(1, 2), s.w).transpose(1, 2), (4, 3, 2), 0),
}


@pytest.mark.parametrize(("kind", "make"), [*((kind, weight) for kind in WEIGHTS), ("matmul", torch.randn)])
def test_a_weight_used_by_a_function_reads_and_makes_channels(kind, make):
    code, shape, reads = WEIGHTS[kind]
    w = make(*shape)  # a parameter, or a buffer
    net = Net(lambda s, x: s.head(code(s, x).relu().sum((0, 1))[None]), a=nn.Linear(5, 4), w=w, head=nn.Linear(3, 2))
    coupling = proved(net, 3, 5)
    assert [(x.name, x.gated, x.multiplied) for x in coupling.prunable] == [("a", True, False), ("w", False, False)]
    read, made = coupling.prunable
    assert slices(read)["w", reads] == (CONSUMER, [0, 1, 2, 3])
    assert slices(made) == {("w", 1 - reads): (PRODUCER, [0, 1, 2]), ("head.weight", 1): (CONSUMER, [0, 1, 2])}
    assert [(call.weight, call.owned) for call in coupling.computations] == [
        ("a.weight", True),
        ("w", False),
        ("head.weight", True),
    ]


@pytest.mark.parametrize(("letters", "positions"), [("ntc,cd->ntd", 3), ("ntc,cd->nd", 1)])
def test_the_cost_of_a_function(letters, positions):
    net = Net(lambda s, x: torch.einsum(letters, s.a(x), s.w), a=nn.Linear(5, 4), w=weight(4, 2))
    calls = couple(net, torch.randn(2, 3, 5)).computations
    assert [(call.weight, call.positions) for call in calls] == [("a.weight", 3), ("w", positions)]


def test_a_scale_in_einsum_goes_with_its_channel():
    net = Net(lambda s, x: s.head(torch.einsum("ntc,c->nc", s.a(x), s.w)), a=nn.Linear(5, 4), w=weight(4))
    net.head = nn.Linear(4, 2)
    (layer,) = proved(net, 3, 5).prunable
    assert slices(layer)["w", 0] == (THROUGH, [0, 1, 2, 3])
    assert not layer.gated


def test_a_weight_turned_around_by_the_code_is_multiplied():
    net = Net(lambda s, x: s.head((s.a(x) @ s.w.t()).relu()), a=nn.Linear(5, 4), w=weight(3, 4), head=nn.Linear(3, 2))
    (layer,) = proved(net, 5).prunable
    assert slices(layer) == {
        ("a.weight", 0): (PRODUCER, [0, 1, 2, 3]),
        ("a.bias", 0): (PRODUCER, [0, 1, 2, 3]),
        ("w", 1): (THROUGH, [0, 1, 2, 3]),
    }
    assert layer.multiplied


# --- what cannot be cut -----------------------------------------------------------------------------------------------

OUTER = "an outer product of channels in matmul"
ALONE = "summed with values that have no such channels in "
FROZEN = {
    "channels times channels": (
        lambda s, x: s.head((s.c(x) @ (s.a(x).transpose(1, 2) @ s.b(x)).tanh()).sum(1)),
        {"c": ALONE + "matmul", "a": OUTER, "b": OUTER},
    ),
    "a constant": (lambda s, x: s.head((s.a(x) @ torch.eye(4, dtype=x.dtype)).sum(1)), {"a": ALONE + "matmul"}),
    "the input": (lambda s, x: torch.einsum("ntc,ntc->nt", s.a(x), x[:, :, :4]), {"a": ALONE + "einsum"}),
    "a vector": (lambda s, x: s.a(x) @ x[0, 0, :4], {"a": "no rule for matmul"}),
    "three operands": (
        lambda s, x: torch.einsum("ntc,ntc,nsd->n", s.a(x), s.b(x), x),
        dict.fromkeys("ab", "no rule for einsum"),
    ),
    "an ellipsis": (lambda s, x: torch.einsum("...c,cd->...d", s.a(x), s.w), {"a": "no rule for einsum"}),
    "a diagonal": (lambda s, x: torch.einsum("nii->ni", s.a(x[:, [0, 1, 2, 0]])), {"a": "no rule for einsum"}),
    "no arrow": (lambda s, x: torch.einsum("ntc,cd", s.a(x), s.w), {"a": "no rule for einsum"}),
    "a weight summed alone": (
        lambda s, x: torch.einsum("ntc,cde->nd", s.a(x), s.wide),
        {"a": "reduced over channels in einsum"},
    ),
}


@pytest.mark.parametrize("kind", FROZEN)
def test_frozen_with_the_reason(kind):
    code, expected = FROZEN[kind]
    net = Net(
        code,
        a=nn.Linear(5, 4),
        b=nn.Linear(5, 4),
        c=nn.Linear(5, 4),
        w=weight(4, 4),
        wide=weight(4, 4, 3),
        head=nn.Linear(4, 2),
    )
    coupling = couple(net.double().eval(), batch(3, 5))
    assert facts(coupling) == expected
    assert not coupling.prunable
