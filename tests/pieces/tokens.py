"""Pieces that read tokens (N, T, C)."""

import torch
from torch import nn
from torch.nn import functional as F

from pieces.piece import Build, even, only, parameter, piece


def gated(a, g):
    return F.silu(a) * g


TOKENS: dict[str, Build] = {
    "linear": lambda at: nn.Linear(at.c, at.o),
    "linear without bias": lambda at: nn.Linear(at.c, at.o, bias=False),
    "mlp": piece(
        lambda s, x: x + s.b(F.gelu(s.a(x))), a=lambda at: nn.Linear(at.c, at.o), b=lambda at: nn.Linear(at.o, at.c)
    ),
    "swiglu": piece(
        lambda s, x: s.b(F.silu(s.a(x)) * s.g(x)),
        a=lambda at: nn.Linear(at.c, at.o),
        g=lambda at: nn.Linear(at.c, at.o),
        b=lambda at: nn.Linear(at.o, at.c),
    ),
    "packed swiglu": piece(
        lambda s, x: s.b(gated(*s.a(x).chunk(2, -1))),
        a=lambda at: nn.Linear(at.c, 2 * at.o),
        b=lambda at: nn.Linear(at.o, at.c),
    ),
    "glu of tokens": only(even, piece(lambda _, x: F.glu(x))),
    "layer norm": lambda at: nn.LayerNorm(at.c),
    "layer norm without bias": lambda at: nn.LayerNorm(at.c, bias=False),
    "layer norm without affine": lambda at: nn.LayerNorm(at.c, elementwise_affine=False),
    "rms norm": lambda at: nn.RMSNorm(at.c),
    "rms norm in steps": piece(
        lambda s, x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3) * s.p, p=parameter("c")
    ),
    "pre-norm mlp": piece(
        lambda s, x: x + s.b(F.relu(s.a(s.norm(x)))),
        norm=lambda at: nn.LayerNorm(at.c),
        a=lambda at: nn.Linear(at.c, at.o),
        b=lambda at: nn.Linear(at.o, at.c),
    ),
    "post-norm mlp": piece(
        lambda s, x: s.norm(x + s.b(F.relu(s.a(x)))),
        norm=lambda at: nn.LayerNorm(at.c),
        a=lambda at: nn.Linear(at.c, at.o),
        b=lambda at: nn.Linear(at.o, at.c),
    ),
    "batch norm of tokens": piece(
        lambda s, x: s.norm(x.transpose(1, 2)).transpose(1, 2), norm=lambda at: nn.BatchNorm1d(at.c)
    ),
    "layer scale": piece(lambda s, x: x + s.gamma * s.a(x), gamma=parameter("c"), a=lambda at: nn.Linear(at.c, at.c)),
    "positions of tokens": piece(lambda s, x: x + s.p, p=parameter(1, "t", "c")),
    "positions of a longer table": piece(
        lambda s, x: x + s.p[:, : x.shape[1]], p=lambda at: nn.Parameter(torch.randn(1, at.t + 2, at.c))
    ),
    "positions of a bias": piece(lambda s, x: x + s.p, p=parameter("t", 1)),
    "embedded positions": piece(
        lambda s, x: x + s.table(s.ids),
        table=lambda at: nn.Embedding(at.t, at.c),
        ids=lambda at: torch.arange(at.t),
    ),
    "indexed positions": piece(
        lambda s, x: x + s.table[s.ids],
        table=parameter("t", "c"),
        ids=lambda at: torch.randperm(at.t),
    ),
    "class token": piece(
        lambda s, x: torch.cat([s.token.expand(x.shape[0], -1, -1), x], 1), token=parameter(1, 1, "c")
    ),
    "registers": piece(
        lambda s, x: torch.cat([x, s.tokens.expand(x.shape[0], -1, -1)], 1), tokens=parameter(1, 2, "c")
    ),
    "without the first token": piece(lambda _, x: x[:, 1:]),
    "first token": piece(lambda _, x: x[:, :1]),
    "first token added": piece(lambda _, x: x + x[:, 0].unsqueeze(1)),
    "mean of tokens": piece(lambda _, x: x.mean(1, keepdim=True)),
    "softmax over tokens": piece(lambda _, x: x.softmax(1)),
    "softmax of tokens": piece(lambda _, x: x.softmax(-1)),
    "mixer": piece(lambda s, x: s.a(x.transpose(1, 2)).transpose(1, 2), a=lambda at: nn.Linear(at.t, at.t)),
    "mixer to other tokens": piece(
        lambda s, x: s.a(x.transpose(1, 2)).transpose(1, 2), a=lambda at: nn.Linear(at.t, at.o)
    ),
    "conv over tokens": piece(
        lambda s, x: s.a(x.transpose(1, 2)).transpose(1, 2), a=lambda at: nn.Conv1d(at.c, at.o, 3, padding=1)
    ),
    "roll tokens": piece(lambda _, x: x.roll(1, 1)),
    "merge tokens": only(lambda at: at.t % 2 == 0, piece(lambda _, x: x.reshape(x.shape[0], x.shape[1] // 2, -1))),
    "split tokens": only(even, piece(lambda _, x: x.reshape(x.shape[0], 2 * x.shape[1], -1))),
    "linear by product": piece(lambda s, x: x @ s.w, w=parameter("c", "o")),
    "linear by einsum": piece(lambda s, x: torch.einsum("ntc,cd->ntd", x, s.w), w=parameter("c", "o")),
    "linear by a transposed product": piece(lambda s, x: x @ s.a.weight.t(), a=lambda at: nn.Linear(at.c, at.o)),
    "linear per head": only(
        even,
        piece(
            lambda s, x: torch.einsum("nthi,hio->ntho", x.unflatten(-1, (2, -1)), s.w).flatten(2),
            w=lambda at: nn.Parameter(torch.randn(2, at.c // 2, 3)),
        ),
    ),
    "linear of flattened tokens": piece(
        lambda s, x: s.a(x.flatten(1)).unsqueeze(1), a=lambda at: nn.Linear(at.t * at.c, at.o)
    ),
    "lookup": piece(
        lambda s, x: torch.einsum("ntk,kc->ntc", s.a(x).softmax(-1), s.values),
        a=lambda at: nn.Linear(at.c, 3),
        values=parameter(3, "o"),
    ),
}
