"""Pieces that read two nodes: feature maps on the same positions, or tokens of any number."""

import torch
from torch import nn
from torch.nn import functional as F

from pieces.attention import HEAD, free, joined, weigh
from pieces.piece import Build, only, piece


def same(at):
    return at.c == at.c2


def matching(at):
    """A 1x1 convolution from the second node to the first one's width."""
    return nn.Conv2d(at.c2, at.c, 1)


def modulated(x, a, b):
    return x * a + b


PAIRS: dict[str, Build] = {
    "add": only(same, piece(lambda _, x, y: x + y)),
    "add through a conv": piece(lambda s, x, y: x + s.match(y), match=matching),
    "subtract in place": only(same, piece(lambda _, x, y: x.clone().sub_(y))),
    "multiply": only(same, piece(lambda _, x, y: x * y.sigmoid())),
    "maximum": only(same, piece(lambda _, x, y: torch.maximum(x, y))),
    "where": only(same, piece(lambda _, x, y: torch.where(x > 0, x, y))),
    "lerp": only(same, piece(lambda _, x, y: torch.lerp(x, y, 0.3))),
    "cat": piece(lambda _, x, y: torch.cat([x, y], 1)),
    "cat of three": piece(lambda _, x, y: torch.cat([x, y, x.sigmoid()], 1)),
    "cat, chunk": only(same, piece(lambda _, x, y: torch.add(*torch.cat([x, y], 1).chunk(2, 1)))),
    "cat, shuffle": only(
        lambda at: same(at) and at.c % 2 == 0,
        piece(lambda _, x, y: torch.cat([x, y], 1).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)),
    ),
    "stack, mean": only(same, piece(lambda _, x, y: torch.stack([x, y]).mean(0))),
    "stack, interleaved channels": only(same, piece(lambda _, x, y: torch.stack([x, y], 2).flatten(1, 2))),
    "weighted sum": only(
        same,
        piece(
            lambda s, x, y: (torch.stack([x, y], 1) * s.p.softmax(0)[:, None, None, None]).sum(1),
            p=lambda _: nn.Parameter(torch.randn(2)),
        ),
    ),
    "gate": piece(lambda s, x, y: x * torch.sigmoid(s.match(y.mean((2, 3), keepdim=True))), match=matching),
    "modulate": piece(
        lambda s, x, y: modulated(x, *s.match(y.mean((2, 3)))[:, :, None, None].chunk(2, 1)),
        match=lambda at: nn.Linear(at.c2, 2 * at.c),
    ),
    "gate of one channel": piece(lambda s, x, y: x * s.match(y).sigmoid(), match=lambda at: nn.Conv2d(at.c2, 1, 1)),
    "selective": only(
        same,
        piece(
            lambda s, x, y: (
                torch.stack([x, y], 1) * s.match((x + y).mean((2, 3))).unflatten(1, (2, -1)).softmax(1)[..., None, None]
            ).sum(1),
            match=lambda at: nn.Linear(at.c, 2 * at.c),
        ),
    ),
    "one conv for both": only(
        same, piece(lambda s, x, y: s.conv(x) + s.conv(y.sigmoid()), conv=lambda at: nn.Conv2d(at.c, at.o, 1))
    ),
    "add, padded": only(
        lambda at: at.c2 < at.c, piece(lambda _, x, y: x + F.pad(y, (0, 0, 0, 0, 0, x.shape[1] - y.shape[1])))
    ),
    "add, sliced": only(lambda at: at.c2 < at.c, piece(lambda _, x, y: x[:, : y.shape[1]] + y)),
    "add, repeated": only(lambda at: at.c == 2 * at.c2, piece(lambda _, x, y: x + y.repeat(1, 2, 1, 1))),
    "cosine": only(same, piece(lambda _, x, y: x * F.cosine_similarity(x, y, dim=1).unsqueeze(1))),
    "add of a mean": piece(lambda _, x, y: x + y.mean(1, keepdim=True)),
}

TOKEN_PAIRS: dict[str, Build] = {
    "cross attention": piece(
        lambda s, x, y: s.out(joined(weigh(free(s, s.q(x)), free(s, s.k(y)), free(s, s.v(y)), s.scale))),
        q=lambda at: nn.Linear(at.c, 2 * HEAD),
        k=lambda at: nn.Linear(at.c2, 2 * HEAD),
        v=lambda at: nn.Linear(at.c2, 2 * HEAD),
        out=lambda at: nn.Linear(2 * HEAD, at.c),
        heads=lambda _: 2,
        scale=lambda _: 0.5,
    ),
    "multihead of two": only(
        lambda at: at.c % 2 == 0,
        piece(
            lambda s, x, y: x + s.mha(x, y, y)[0],
            mha=lambda at: nn.MultiheadAttention(at.c, 2, kdim=at.c2, vdim=at.c2, batch_first=True),
        ),
    ),
    "cat of tokens": only(same, piece(lambda _, x, y: torch.cat([x, y], 1))),
    "tokens by tokens": only(same, piece(lambda _, x, y: x @ y.transpose(1, 2))),
    "outer product": piece(lambda _, x, y: torch.einsum("nc,nd->ncd", x.mean(1), y.mean(1))),
    "lookup by similarity": only(
        same, piece(lambda _, x, y: torch.einsum("nts,nsc->ntc", (x @ y.transpose(1, 2)).softmax(-1), y))
    ),
}
