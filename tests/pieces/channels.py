"""Pieces that move channels or positions of feature maps (N, C, H, W), or mix them without weights."""

import torch
from torch import nn
from torch.nn import functional as F

from pieces.piece import Build, Piece, constant, even, only, parameter, piece, wide


def four(at):
    return at.c % 4 == 0


def literal(at):
    """The width stands in the code."""
    c, h, w = at.c, at.h, at.w
    return Piece(lambda _, x: x.flatten(1).view(x.shape[0], c, h, w))


def gated(a, b):
    return a * b.sigmoid()


def shuffled(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


PARTS: dict[str, Build] = {
    "chunk, add": only(even, piece(lambda _, x: torch.add(*x.chunk(2, 1)))),
    "chunk, swap": only(even, piece(lambda _, x: torch.cat(x.chunk(2, 1)[::-1], 1))),
    "chunk, first": only(even, piece(lambda _, x: x.chunk(2, 1)[0])),
    "chunk in three": piece(lambda _, x: torch.cat(x.chunk(3, 1)[::-1], 1)),
    "split, equal": only(even, piece(lambda _, x: torch.mul(*x.split(x.shape[1] // 2, 1)))),
    "split, constant": piece(lambda _, x: torch.cat(x.split([2, x.shape[1] - 2], 1)[::-1], 1)),
    "split, branches": only(
        even,
        piece(
            lambda s, x: torch.cat([s.a(x.chunk(2, 1)[0]), s.b(x.chunk(2, 1)[1]).sigmoid()], 1),
            a=lambda at: nn.Conv2d(at.c // 2, 4, 1),
            b=lambda at: nn.Conv2d(at.c // 2, at.o, 1),
        ),
    ),
    "split, by attribute": piece(
        lambda s, x: torch.cat([s.a(x).split([s.k, s.o], 1)[1], x], 1),
        a=lambda at: nn.Conv2d(at.c, at.o + 3, 1),
        k=lambda _: 3,
        o=lambda at: at.o,
    ),
    "tensor_split": only(even, piece(lambda _, x: torch.add(*torch.tensor_split(x, 2, 1)))),
    "leading channels": piece(lambda _, x: x[:, :3]),
    "trailing channels": piece(lambda _, x: x[:, 3:]),
    "last channels": piece(lambda _, x: x[:, -3:]),
    "other channels": piece(lambda _, x: x[:, ::2]),
    "halves": only(even, piece(lambda _, x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :].sigmoid())),
    "half through a conv": only(
        even,
        piece(
            lambda s, x: torch.cat([x[:, : x.shape[1] // 2], s.a(x[:, x.shape[1] // 2 :])], 1),
            a=lambda at: nn.Conv2d(at.c // 2, at.c // 2, 3, padding=1),
        ),
    ),
    "first as a gate": piece(lambda _, x: x[:, 1:] * torch.sigmoid(x[:, :1])),
    "narrow": piece(lambda _, x: x.narrow(1, 1, 3)),
    "picked channels": piece(lambda _, x: x[:, [0, 2, 1]]),
    "index_select": piece(lambda s, x: x.index_select(1, s.order), order=lambda at: torch.randperm(at.c)),
    "one channel": piece(lambda _, x: x[:, 1].unsqueeze(1)),
    "unbind": piece(lambda _, x: torch.stack(x.unbind(1)[::-1], 1)),
    "glu": only(even, lambda _: nn.GLU(1)),
    "glu by chunk": only(even, piece(lambda _, x: gated(*x.chunk(2, 1)))),
    "swap halves": only(even, piece(lambda _, x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1))),
    "complex": only(even, piece(lambda _, x: torch.cat([-x[:, 1::2], x[:, ::2]], 1))),
}

MOVES: dict[str, Build] = {
    "flip": piece(lambda _, x: x.flip(3)),
    "flip channels": piece(lambda _, x: x.flip(1)),
    "roll": piece(lambda _, x: x.roll((1, 2), (2, 3))),
    "roll channels": piece(lambda _, x: x.roll(1, 1)),
    "shuffle": only(even, piece(lambda _, x: shuffled(x, 2))),
    "shuffle of four": only(four, piece(lambda _, x: shuffled(x, 4))),
    "shuffle, free": only(even, piece(lambda _, x: x.unflatten(1, (2, -1)).permute(0, 2, 1, 3, 4).flatten(1, 2))),
    "shuffle, pairs": only(even, piece(lambda _, x: x.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2))),
    "shuffle by attribute": only(even, piece(lambda s, x: shuffled(x, s.groups), groups=lambda _: 2)),
    "shuffle module": only(even, lambda _: nn.ChannelShuffle(2)),
    "pixel shuffle": only(four, lambda _: nn.PixelShuffle(2)),
    "pixel unshuffle": only(lambda at: at.h % 2 == at.w % 2 == 0, lambda _: nn.PixelUnshuffle(2)),
    "patches to channels": only(
        lambda at: at.h % 2 == at.w % 2 == 0,
        piece(lambda _, x: torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)),
    ),
    "patches by a view": only(
        lambda at: at.h % 2 == at.w % 2 == 0,
        piece(lambda _, x: x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)),
    ),
    "repeat": piece(lambda _, x: x.repeat(1, 2, 1, 1)),
    "repeat, interleaved": piece(lambda _, x: x.repeat_interleave(2, 1)),
    "repeat over space": piece(lambda _, x: x.repeat(1, 1, 2, 1)),
    "stack": piece(lambda _, x: torch.stack([x, x.flip(3).sigmoid()], 1).flatten(1, 2)),
    "stack, interleaved": piece(lambda _, x: torch.stack([x, x.flip(3).sigmoid()], 2).flatten(1, 2)),
    "channels last": piece(lambda _, x: x.to(memory_format=torch.channels_last)),
    "attribute": piece(lambda s, x: x.flatten(1).view(x.shape[0], s.width, -1, 1), width=lambda at: at.c),
    "attribute of a tuple": piece(lambda s, x: x.flatten(1).reshape(-1, *s.shape), shape=lambda at: (at.c, at.h, at.w)),
    "literal": literal,
    "batch as channels": piece(
        lambda s, x: s.a(x.flatten(0, 1).unsqueeze(1)).unflatten(0, x.shape[:2]).squeeze(2),
        a=lambda _: nn.Conv2d(1, 1, 3, padding=1),
    ),
}

SPACE: dict[str, Build] = {
    "max pool": only(wide, lambda _: nn.MaxPool2d(2)),
    "max pool with indices": only(wide, piece(lambda _, x: F.max_pool2d(x, 3, 1, 1, return_indices=True)[0])),
    "avg pool": only(wide, lambda _: nn.AvgPool2d(2, ceil_mode=True)),
    "lp pool": only(wide, piece(lambda _, x: F.lp_pool2d(x.abs() + 0.1, 2, 2))),
    "adaptive avg pool": only(wide, lambda _: nn.AdaptiveAvgPool2d(2)),
    "adaptive max pool": only(wide, lambda _: nn.AdaptiveMaxPool2d((2, 1))),
    "global mean": piece(lambda _, x: x.mean((2, 3), keepdim=True)),
    "global mean, expanded": piece(lambda _, x: x + x.mean((2, 3), keepdim=True).expand_as(x)),
    "deviation": only(wide, piece(lambda _, x: x.std((2, 3), keepdim=True))),
    "upsample": lambda _: nn.Upsample(scale_factor=2),
    "upsample, bilinear": lambda _: nn.Upsample(scale_factor=2, mode="bilinear"),
    "resize": piece(lambda _, x: F.interpolate(x, size=(5, 4), mode="bicubic")),
    "pad": piece(lambda _, x: F.pad(x, (1, 0, 2, 1))),
    "pad with ones": lambda _: nn.ConstantPad2d(1, 1.0),
    "pad by reflection": only(wide, lambda _: nn.ReflectionPad2d(1)),
    "pad by replication": lambda _: nn.ReplicationPad2d(1),
    "pad in a circle": only(wide, lambda _: nn.CircularPad2d(1)),
    "pad channels": piece(lambda _, x: F.pad(x, (0, 0, 0, 0, 1, 2))),
    "pad channels with ones": piece(lambda _, x: F.pad(x, (0, 0, 0, 0, 0, 2), value=1.0)),
    "crop": only(lambda at: min(at.h, at.w) > 3, piece(lambda _, x: F.pad(x, (-1, -1, 0, -1)))),
    "crop channels": piece(lambda _, x: F.pad(x, (0, 0, 0, 0, -1, 0))),
    "every other position": only(wide, piece(lambda _, x: x[:, :, ::2, 1::2])),
    "softmax over space": piece(lambda _, x: x.flatten(2).softmax(-1).unflatten(2, x.shape[2:])),
    "cumulated over space": piece(lambda _, x: x.cumsum(3)),
    "sorted over space": piece(lambda _, x: x.sort(3)[0]),
}

MIXES: dict[str, Build] = {
    "softmax over channels": piece(lambda _, x: x.softmax(1)),
    "mean over channels": piece(lambda _, x: x.mean(1, keepdim=True)),
    "maximum over channels": piece(lambda _, x: x.amax(1, keepdim=True)),
    "cumulated over channels": piece(lambda _, x: x.cumsum(1)),
    "sorted over channels": piece(lambda _, x: x.sort(1)[0]),
    "largest channels": piece(lambda _, x: x.topk(3, 1)[0]),
    "centred over channels": piece(lambda _, x: x - x.mean(1, keepdim=True)),
    "difference of neighbours": piece(lambda _, x: x[:, 1:] - x[:, :-1]),
    "bilinear pooling": piece(
        lambda s, x: s.head(torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).flatten(1))[:, :, None, None],
        head=lambda at: nn.Linear(at.c**2, at.o),
    ),
    "similarity of channels": piece(
        lambda _, x: torch.bmm(
            torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).softmax(-1), x.flatten(2)
        ).unflatten(2, x.shape[2:])
    ),
    "similarity of positions": piece(
        lambda s, x: torch.bmm(
            s.v(x).flatten(2), torch.bmm(s.q(x).flatten(2).transpose(1, 2), s.k(x).flatten(2)).softmax(-1)
        ).unflatten(2, x.shape[2:]),
        q=lambda at: nn.Conv2d(at.c, at.o, 1),
        k=lambda at: nn.Conv2d(at.c, at.o, 1),
        v=lambda at: nn.Conv2d(at.c, at.c, 1),
    ),
    "mixture": piece(
        lambda s, x: torch.einsum("nkhw,kc->nchw", s.gate(x).softmax(1), s.p),
        gate=lambda at: nn.Conv2d(at.c, 3, 1),
        p=parameter(3, "o"),
    ),
    "mask buffer": piece(lambda s, x: x.masked_fill(s.mask > 1, 0.3), mask=constant(1, "c", 1, 1)),
}
