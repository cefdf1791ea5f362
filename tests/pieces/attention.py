"""Attention on tokens (N, T, C), written in the ways that people write it."""

import torch
from torch import nn
from torch.nn import functional as F

from pieces.piece import Build, Piece, Site, even, only, parameter

HEAD = 4  # width of a head


def attention(code, packed=0, heads=2, **parts):
    """A piece with `heads` heads of width `HEAD`: `q`, `k`, `v` (or `qkv`), `out`, and the usual attributes."""

    def build(at: Site) -> nn.Module:
        width = heads * HEAD
        own = {"qkv": nn.Linear(at.c, packed * width)} if packed else {n: nn.Linear(at.c, width) for n in "qkv"}
        own |= {name: make(at) for name, make in parts.items()}
        numbers = {"heads": heads, "head_dim": HEAD, "width": width, "scale": HEAD**-0.5}
        return Piece(code, out=nn.Linear(width, at.c), **own, **numbers)

    return build


def rows(s, x):
    """(N, heads, T, head_dim) by attributes."""
    return x.view(x.shape[0], -1, s.heads, s.head_dim).transpose(1, 2)


def free(s, x):
    """(N, heads, T, head_dim) by the number of heads."""
    return x.reshape(x.shape[0], x.shape[1], s.heads, -1).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).flatten(2)


def weigh(q, k, v, scale):
    return (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v


def by_attributes(s, x):
    return s.out(joined(weigh(rows(s, s.q(x)), rows(s, s.k(x)), rows(s, s.v(x)), s.scale)))


def by_attributes_in_full(s, x):
    n, t, _ = x.shape
    y = weigh(rows(s, s.q(x)), rows(s, s.k(x)), rows(s, s.v(x)), s.scale)
    return s.out(y.transpose(1, 2).reshape(n, t, s.heads * s.head_dim))


def by_width(s, x):
    n, t, _ = x.shape
    y = weigh(rows(s, s.q(x)), rows(s, s.k(x)), rows(s, s.v(x)), s.scale)
    return s.out(y.transpose(1, 2).reshape(n, t, s.width))


def scaled_by_head_dim(s, x):
    return s.out(joined(weigh(rows(s, s.q(x)), rows(s, s.k(x)), rows(s, s.v(x)), s.head_dim**-0.5)))


def by_heads(s, x):
    return s.out(joined(weigh(free(s, s.q(x)), free(s, s.k(x)), free(s, s.v(x)), s.scale)))


def scaled_by_shape(s, x):
    q = free(s, s.q(x))
    return s.out(joined(weigh(q, free(s, s.k(x)), free(s, s.v(x)), q.shape[-1] ** -0.5)))


def fused(s, x):
    return s.out(joined(F.scaled_dot_product_attention(free(s, s.q(x)), free(s, s.k(x)), free(s, s.v(x)))))


def fused_fixed(s, x):
    q, k, v = free(s, s.q(x)), free(s, s.k(x)), free(s, s.v(x))
    return s.out(joined(F.scaled_dot_product_attention(q, k, v, scale=s.scale)))


def fused_causal(s, x):
    q, k, v = rows(s, s.q(x)), rows(s, s.k(x)), rows(s, s.v(x))
    return s.out(joined(F.scaled_dot_product_attention(q, k, v, scale=0.5, is_causal=True)))


def packed_unbind(s, x):
    n, t, _ = x.shape
    q, k, v = s.qkv(x).reshape(n, t, 3, s.heads, s.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    return s.out(weigh(q, k, v, s.scale).transpose(1, 2).reshape(n, t, s.heads * s.head_dim))


def packed_indexed(s, x):
    n, t, _ = x.shape
    qkv = s.qkv(x).reshape(n, t, 3, s.heads, -1).permute(2, 0, 3, 1, 4)
    return s.out(joined(weigh(qkv[0], qkv[1], qkv[2], s.scale)))


def packed_by_input(s, x):
    n, t, c = x.shape
    q, k, v = s.qkv(x).reshape(n, t, 3, s.heads, s.width // s.heads).permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v, scale=s.scale)
    return s.out(y.transpose(1, 2).reshape(n, t, s.width)).reshape(n, t, c)


def packed_chunk(s, x):
    q, k, v = (free(s, part) for part in s.qkv(x).chunk(3, -1))
    return s.out(joined(weigh(q, k, v, s.scale)))


def packed_split(s, x):
    q, k, v = (rows(s, part) for part in s.qkv(x).split(s.width, -1))
    return s.out(joined(weigh(q, k, v, s.scale)))


def packed_heads_first(s, x):
    n, t, _ = x.shape
    q, k, v = s.qkv(x).view(n, t, s.heads, 3 * s.head_dim).transpose(1, 2).chunk(3, -1)
    return s.out(joined(weigh(q, k, v, s.scale)))


def single(s, x):
    return s.out(weigh(s.q(x), s.k(x), s.v(x), 0.5))


def single_by_shape(s, x):
    q = s.q(x)
    return s.out(weigh(q, s.k(x), s.v(x), q.shape[-1] ** -0.5))


def by_einsum(s, x):
    q, k, v = (a(x).unflatten(-1, (s.heads, -1)) for a in (s.q, s.k, s.v))
    weights = torch.einsum("nqhd,nkhd->nhqk", q, k).mul(s.scale).softmax(-1)
    return s.out(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2))


def by_bmm(s, x):
    q, k, v = (free(s, a(x)).flatten(0, 1) for a in (s.q, s.k, s.v))
    y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).mul(s.scale).softmax(-1), v)
    return s.out(joined(y.unflatten(0, (-1, s.heads))))


def linear_attention(s, x):
    q, k, v = F.elu(free(s, s.q(x))) + 1, F.elu(free(s, s.k(x))) + 1, free(s, s.v(x))
    return s.out(joined(q @ (k.transpose(-2, -1) @ v)) / x.shape[1])


def efficient_attention(s, x):
    q, k, v = free(s, s.q(x)).softmax(-1), free(s, s.k(x)).softmax(-2), free(s, s.v(x))
    return s.out(joined(q @ (k.transpose(-2, -1) @ v)))


def over_channels(s, x):
    q, k, v = (free(s, a(x)).transpose(-2, -1) for a in (s.q, s.k, s.v))
    return s.out(joined(weigh(q, k, v, 0.3).transpose(-2, -1)))


def shared_keys(s, x):
    q, k, v = free(s, s.q(x)), s.one(x).unsqueeze(1), s.other(x).unsqueeze(1)
    return s.out(joined(weigh(q, k, v, s.scale)))


def shared_keys_expanded(s, x):
    q = free(s, s.q(x))
    k, v = (a(x).unsqueeze(1).expand(-1, s.heads, -1, -1) for a in (s.one, s.other))
    return s.out(joined(F.scaled_dot_product_attention(q, k, v, scale=s.scale)))


def repeated_keys(s, x):
    q = free(s, s.q(x))
    k, v = (a(x).unsqueeze(1).repeat_interleave(s.heads, 1) for a in (s.one, s.other))
    return s.out(joined(weigh(q, k, v, s.scale)))


def biased(s, x):
    logits = free(s, s.q(x)) @ free(s, s.k(x)).transpose(-2, -1) * s.scale + s.bias
    return s.out(joined(logits.softmax(-1) @ free(s, s.v(x))))


def biased_by_table(s, x):
    t = x.shape[1]
    bias = s.table[s.index.view(-1)].view(t, t, -1).permute(2, 0, 1)
    logits = free(s, s.q(x)) @ free(s, s.k(x)).transpose(-2, -1) * s.scale + bias
    return s.out(joined(logits.softmax(-1) @ free(s, s.v(x))))


def masked(s, x):
    logits = (free(s, s.q(x)) @ free(s, s.k(x)).transpose(-2, -1)).masked_fill(s.mask, -9.0)
    return s.out(joined(logits.softmax(-1) @ free(s, s.v(x))))


def normed(s, x):
    q, k = s.norm_q(rows(s, s.q(x))), s.norm_k(rows(s, s.k(x)))
    return s.out(joined(weigh(q, k, rows(s, s.v(x)), s.scale)))


def cosine(s, x):
    q, k = F.normalize(free(s, s.q(x)), dim=-1), F.normalize(free(s, s.k(x)), dim=-1)
    return s.out(joined(weigh(q, k, free(s, s.v(x)), 3.0)))


def turned(x):
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def rotary(s, x):
    q, k = free(s, s.q(x)), free(s, s.k(x))
    q, k = (y * s.angle.cos() + turned(y) * s.angle.sin() for y in (q, k))
    return s.out(joined(weigh(q, k, free(s, s.v(x)), s.scale)))


def talking(s, x):
    logits = free(s, s.q(x)) @ free(s, s.k(x)).transpose(-2, -1)
    logits = s.talk(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return s.out(joined(logits.softmax(-1) @ free(s, s.v(x))))


def gated(s, x):
    y = joined(weigh(free(s, s.q(x)), free(s, s.k(x)), free(s, s.v(x)), s.scale))
    return s.out(y * torch.sigmoid(s.gate(x)))


def pooling(s, x):
    query = s.query.expand(x.shape[0], -1, -1)
    return s.out(weigh(query, s.k(x), s.v(x), 0.5))


def windows(s, x):
    parts = x.view(x.shape[0], x.shape[1] // 2, 2, -1).flatten(0, 1)
    y = weigh(free(s, s.q(parts)), free(s, s.k(parts)), free(s, s.v(parts)), s.scale)
    return s.out(joined(y)).view(x.shape[0], x.shape[1], -1)


def as_wide_as_the_input(s, x):
    n, t, c = x.shape
    q, k, v = s.qkv(x).reshape(n, t, 3, s.heads, c // s.heads).permute(2, 0, 3, 1, 4)
    return s.out(weigh(q, k, v, s.scale).transpose(1, 2).reshape(n, t, c))


def square(at):
    """As the vision transformers have it: the heads together are as wide as the input."""
    numbers = {"heads": 2, "scale": 0.5}
    return Piece(as_wide_as_the_input, qkv=nn.Linear(at.c, 3 * at.c), out=nn.Linear(at.c, at.c), **numbers)


def one_head(at):
    return nn.Linear(at.c, HEAD)


def multihead(**options):
    """`nn.MultiheadAttention` on its own input."""

    def build(at):
        mha = nn.MultiheadAttention(at.c, 2, **({"batch_first": True} | options))
        weights = options.get("add_bias_kv", False)
        return Piece(lambda s, x: s.mha(x, x, x, need_weights=weights)[0], mha=mha)

    return only(even, build)


def time_first(at):
    mha = nn.MultiheadAttention(at.c, 2)
    return Piece(lambda s, x: s.mha(*(x.transpose(0, 1),) * 3)[0].transpose(0, 1), mha=mha)


def encoder(**options):
    options = {"dim_feedforward": 8, "dropout": 0.0, "batch_first": True} | options
    return only(even, lambda at: nn.TransformerEncoderLayer(at.c, 2, **options))


ATTENTION: dict[str, Build] = {
    "attention": attention(by_attributes),
    "attention, widths multiplied": attention(by_attributes_in_full),
    "attention, width": attention(by_width),
    "attention, scaled by attribute": attention(scaled_by_head_dim),
    "attention, free widths": attention(by_heads),
    "attention, scaled by shape": attention(scaled_by_shape),
    "fused attention": attention(fused),
    "fused attention, fixed scale": attention(fused_fixed),
    "fused attention, causal": attention(fused_causal),
    "packed attention": attention(packed_unbind, packed=3),
    "packed attention, indexed": attention(packed_indexed, packed=3),
    "packed attention, shapes": attention(packed_by_input, packed=3),
    "packed attention, as wide as the input": only(even, square),
    "packed attention, chunk": attention(packed_chunk, packed=3),
    "packed attention, split": attention(packed_split, packed=3),
    "packed attention, heads first": attention(packed_heads_first, packed=3),
    "single head": attention(single),
    "single head, scaled by shape": attention(single_by_shape),
    "attention by einsum": attention(by_einsum),
    "attention by bmm": attention(by_bmm),
    "linear attention": attention(linear_attention),
    "efficient attention": attention(efficient_attention),
    "attention over channels": attention(over_channels),
    "shared keys": attention(shared_keys, one=one_head, other=one_head),
    "shared keys, expanded": attention(shared_keys_expanded, one=one_head, other=one_head),
    "repeated keys": attention(repeated_keys, one=one_head, other=one_head),
    "attention with a bias": attention(biased, bias=parameter(2, "t", "t")),
    "attention with a table": attention(
        biased_by_table,
        table=lambda _: nn.Parameter(torch.randn(5, 2)),
        index=lambda at: torch.randint(5, (at.t, at.t)),
    ),
    "attention with a mask": attention(masked, mask=lambda at: torch.ones(at.t, at.t).triu(1) > 0),
    "attention with norms": attention(normed, norm_q=lambda _: nn.LayerNorm(HEAD), norm_k=lambda _: nn.RMSNorm(HEAD)),
    "cosine attention": attention(cosine),
    "rotary attention": attention(rotary, angle=lambda at: torch.rand(at.t, HEAD // 2).repeat(1, 2)),
    "talking heads": attention(talking, talk=lambda _: nn.Linear(2, 2)),
    "gated attention": attention(gated, gate=lambda at: nn.Linear(at.c, 2 * HEAD)),
    "attention pooling": attention(pooling, query=parameter(1, 1, 2 * HEAD)),
    "windows": only(lambda at: at.t % 2 == 0, attention(windows)),
    "multihead": multihead(),
    "multihead, time first": only(even, time_first),
    "multihead, no bias": multihead(bias=False),
    "multihead, added keys": multihead(add_bias_kv=True),
    "encoder layer": encoder(),
    "encoder layer, norm first": encoder(norm_first=True, activation="gelu"),
}
