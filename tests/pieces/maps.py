"""Pieces that compute on feature maps (N, C, H, W): convolutions, norms, gates."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from pieces.piece import Build, constant, even, only, parameter, piece, wide


def conv(kernel=3, padding=1, **options):
    return lambda at: nn.Conv2d(at.c, at.o, kernel, padding=padding, **options)


def tied(at):
    first, second = nn.Conv2d(at.c, at.c, 3, padding=1), nn.Conv2d(at.c, at.c, 3, padding=1)
    second.weight, second.bias = first.weight, first.bias
    return nn.Sequential(first, nn.ReLU(), second)


def still(at):
    return nn.Conv2d(at.c, at.o, 1).requires_grad_(False)


CONVOLUTIONS: dict[str, Build] = {
    "conv": conv(),
    "conv 1x1": conv(1, 0),
    "conv 1x3": conv((1, 3), padding=(0, 1)),
    "conv stride 2": conv(stride=2),
    "conv dilated": conv(dilation=2, padding=2),
    "conv same": conv(padding="same"),
    "conv without bias": conv(bias=False),
    "conv reflect": only(wide, conv(padding_mode="reflect")),
    "conv to one channel": lambda at: nn.Conv2d(at.c, 1, 1),
    "grouped conv": only(even, conv(groups=2)),
    "grouped conv of four": only(lambda at: at.c % 4 == at.o % 4 == 0, conv(groups=4)),
    "depthwise": lambda at: nn.Conv2d(at.c, at.c, 3, padding=1, groups=at.c),
    "depthwise of two": lambda at: nn.Conv2d(at.c, 2 * at.c, 3, padding=1, groups=at.c),
    "transposed": lambda at: nn.ConvTranspose2d(at.c, at.o, 2, stride=2),
    "transposed 3x3": lambda at: nn.ConvTranspose2d(at.c, at.o, 3, padding=1, bias=False),
    "transposed grouped": only(even, lambda at: nn.ConvTranspose2d(at.c, at.o, 3, padding=1, groups=2)),
    "transposed depthwise": lambda at: nn.ConvTranspose2d(at.c, at.c, 3, padding=1, groups=at.c),
    "transposed depthwise of two": lambda at: nn.ConvTranspose2d(at.c, 2 * at.c, 3, padding=1, groups=at.c),
    "conv over rows": piece(
        lambda s, x: s.conv(x.flatten(2)).unflatten(2, x.shape[2:]),
        conv=lambda at: nn.Conv1d(at.c, at.o, 3, padding=1),
    ),
    "conv in three dimensions": piece(
        lambda s, x: s.conv(x.unsqueeze(2)).squeeze(2),
        conv=lambda at: nn.Conv3d(at.c, at.o, (1, 3, 3), padding=(0, 1, 1)),
    ),
    "linear on the last dimension": piece(
        lambda s, x: s.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), linear=lambda at: nn.Linear(at.c, at.o)
    ),
    "linear of everything": piece(
        lambda s, x: s.linear(x.flatten(1))[:, :, None, None],
        linear=lambda at: nn.Linear(at.c * at.t, at.o),
    ),
    "linear to a map": piece(
        lambda s, x: s.linear(x.flatten(1)).view(x.shape[0], -1, 2, 2),
        linear=lambda at: nn.Linear(at.c * at.t, 4 * at.o),
    ),
    "reused conv": piece(lambda s, x: s.conv(F.relu(s.conv(x))), conv=lambda at: nn.Conv2d(at.c, at.c, 3, padding=1)),
    "tied convs": tied,
    "tied linears": piece(
        lambda s, x: F.linear(s.a(x.transpose(1, 3)).sigmoid(), s.a.weight.t()).transpose(1, 3),
        a=lambda at: nn.Linear(at.c, at.o),
    ),
    "conv that does not learn": still,
    "functional conv": piece(lambda s, x: F.conv2d(x, s.w, s.b), w=parameter("o", "c", 1, 1), b=parameter("o")),
    "functional conv of a buffer": piece(lambda s, x: F.conv2d(x, s.w), w=constant("o", "c", 1, 1)),
    "blur": piece(lambda s, x: F.conv2d(x, s.kernel, padding=1, groups=x.shape[1]), kernel=constant("c", 1, 3, 3)),
    "blur by one kernel": piece(
        lambda s, x: F.conv2d(x, s.kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1]),
        kernel=constant(1, 1, 3, 3),
    ),
    "standardised weight": piece(
        lambda s, x: F.conv2d(x, s.conv.weight - s.conv.weight.mean((1, 2, 3), keepdim=True), s.conv.bias),
        conv=conv(1, 0),
    ),
    "weight norm": lambda at: parametrizations.weight_norm(nn.Conv2d(at.c, at.o, 1)),
    "einsum as conv": piece(lambda s, x: torch.einsum("nchw,oc->nohw", x, s.w), w=parameter("o", "c")),
    "product as conv": piece(
        lambda s, x: torch.matmul(s.w, x.flatten(2)).unflatten(2, x.shape[2:]), w=parameter("o", "c")
    ),
    "residual block": piece(
        lambda s, x: x + s.b(F.relu(s.norm(s.a(x)))),
        a=lambda at: nn.Conv2d(at.c, at.o, 3, padding=1, bias=False),
        norm=lambda at: nn.BatchNorm2d(at.o),
        b=lambda at: nn.Conv2d(at.o, at.c, 3, padding=1),
    ),
    "dense block": piece(lambda s, x: torch.cat([x, s.a(x)], 1), a=conv()),
    "unfold": piece(lambda _, x: F.unfold(x, 1).unflatten(2, x.shape[2:])),
}

NORMS: dict[str, Build] = {
    "batch norm": lambda at: nn.BatchNorm2d(at.c),
    "conv-norm": lambda at: nn.Sequential(nn.Conv2d(at.c, at.o, 3, padding=1, bias=False), nn.BatchNorm2d(at.o)),
    "conv-norm without affine": lambda at: nn.Sequential(
        nn.Conv2d(at.c, at.o, 1, bias=False), nn.BatchNorm2d(at.o, affine=False)
    ),
    "batch norm of the batch": only(wide, lambda at: nn.BatchNorm2d(at.c, track_running_stats=False)),
    "batch norm, bare": only(wide, lambda at: nn.BatchNorm2d(at.c, track_running_stats=False, affine=False)),
    "shared batch norm": piece(lambda s, x: s.bn(F.relu(s.bn(x))), bn=lambda at: nn.BatchNorm2d(at.c)),
    "group norm of one": only(wide, lambda at: nn.GroupNorm(1, at.c)),
    "group norm of two": only(lambda at: wide(at) and even(at), lambda at: nn.GroupNorm(2, at.c)),
    "group norm of each": only(wide, lambda at: nn.GroupNorm(at.c, at.c)),
    "group norm, bare": only(lambda at: wide(at) and even(at), lambda at: nn.GroupNorm(2, at.c, affine=False)),
    "instance norm": only(wide, lambda at: nn.InstanceNorm2d(at.c)),
    "instance norm, affine": only(wide, lambda at: nn.InstanceNorm2d(at.c, affine=True)),
    "instance norm, tracking": only(wide, lambda at: nn.InstanceNorm2d(at.c, affine=True, track_running_stats=True)),
    "layer norm on the last dimension": piece(
        lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=lambda at: nn.LayerNorm(at.c)
    ),
    "layer norm, functional": piece(lambda _, x: F.layer_norm(x.transpose(1, 3), x.shape[1:2]).transpose(1, 3)),
    "layer norm of everything": lambda at: nn.LayerNorm([at.c, at.h, at.w]),
    "layer norm of positions": only(wide, lambda at: nn.LayerNorm([at.h, at.w])),
    "local response norm": lambda _: nn.LocalResponseNorm(3, alpha=1.0),
    "unit length": piece(lambda _, x: F.normalize(x, dim=1)),
    "rms norm by hand": piece(
        lambda s, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3) * s.p, p=parameter("c", 1, 1)
    ),
    "normalised by hand": only(
        wide, piece(lambda _, x: (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 0.1))
    ),
}

GATES: dict[str, Build] = {
    "excite": piece(
        lambda s, x: x * torch.sigmoid(s.up(F.relu(s.down(x.mean((2, 3), keepdim=True))))),
        down=lambda at: nn.Conv2d(at.c, 4, 1),
        up=lambda at: nn.Conv2d(4, at.c, 1),
    ),
    "excite by linears": piece(
        lambda s, x: x * torch.sigmoid(s.up(F.silu(s.down(x.mean((2, 3))))))[:, :, None, None],
        down=lambda at: nn.Linear(at.c, 4),
        up=lambda at: nn.Linear(4, at.c),
    ),
    "excite by a view": piece(
        lambda s, x: x * s.up(s.pool(x).view(x.shape[0], -1)).view(x.shape[0], -1, 1, 1).expand_as(x),
        pool=lambda _: nn.AdaptiveAvgPool2d(1),
        up=lambda at: nn.Linear(at.c, at.c),
    ),
    "gate of positions": piece(lambda s, x: x * torch.sigmoid(s.gate(x)), gate=lambda at: nn.Conv2d(at.c, 1, 1)),
    "gate of the mean": piece(lambda _, x: x * torch.sigmoid(x.mean(1, keepdim=True))),
    "gate of the maximum": piece(lambda _, x: x * torch.sigmoid(x.amax(1, keepdim=True))),
    "gate over neighbours": piece(
        lambda s, x: x * s.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1),
        conv=lambda _: nn.Conv1d(1, 1, 3, padding=1),
    ),
    "own gate": piece(lambda _, x: x * torch.sigmoid(x)),
    "scale": piece(lambda s, x: x * s.p, p=parameter("c", 1, 1)),
    "scale by a view": piece(lambda s, x: x * s.p.view(1, -1, 1, 1), p=parameter("c")),
    "scale by indexing": piece(lambda s, x: x * s.p[None, :, None, None], p=parameter("c")),
    "scale by expanding": piece(lambda s, x: x * s.p[:, None, None].expand_as(x), p=parameter("c")),
    "scale of the last dimension": piece(lambda s, x: (x.transpose(1, 3) * s.p).transpose(1, 3), p=parameter("c")),
    "shift by a buffer": piece(lambda s, x: x + s.p, p=constant(1, "c", 1, 1)),
    "positions": piece(lambda s, x: x * s.p, p=parameter(1, "c", "h", "w")),
    "positions of all channels": piece(lambda s, x: x + s.p, p=parameter("h", "w")),
    "two parameters": piece(lambda s, x: x * (s.p * s.q), p=parameter("c", 1, 1), q=parameter("c", 1, 1)),
    "rows and columns": piece(lambda s, x: x + s.p + s.q, p=parameter("c", "h", 1), q=parameter("c", 1, "w")),
    "one number": piece(lambda s, x: x * s.p, p=parameter(1)),
    "threshold": piece(lambda s, x: torch.maximum(x, s.p - 1), p=parameter("c", 1, 1)),
    "switch": piece(lambda s, x: torch.where(s.p > 1, x, -0.3 * x), p=parameter("c", 1, 1)),
    "addcmul": piece(lambda s, x: torch.addcmul(s.b, x, s.p), b=parameter("c", 1, 1), p=parameter("c", 1, 1)),
    "leaky by channel": lambda at: nn.PReLU(at.c),
    "leaky": lambda _: nn.PReLU(),
    "one minus": piece(lambda _, x: 1 - x),
    "softplus": lambda _: nn.Softplus(),
    "clamp": piece(lambda _, x: x.clamp(-1, 1)),
    "dropout": lambda _: nn.Dropout2d(0.5),
}
