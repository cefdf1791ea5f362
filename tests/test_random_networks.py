"""Networks nobody thought of: couplings of random chains of operations survive the proof."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from architectures import random_masks
from infprune.coupling.couple import couple
from infprune.proof import prove
from infprune.surgery import cut


class Random(nn.Module):
    """A chain of steps on (N, C, 4, 4); the ones that halve the width are left out where it is too small."""

    def __init__(self, kinds, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.kinds, self.parts, self.scales = [], nn.ModuleDict(), nn.ParameterDict()
        self._conv("stem", 3, 8)
        for kind in kinds:
            halves = self.width % 2 == 0 and self.width >= 4
            if halves or kind not in {"glu", "shuffle", "grouped"}:
                getattr(self, f"_make_{kind}", lambda _: None)(str(len(self.kinds)))
                self.kinds.append(kind)
        self.head = nn.Linear(self.width * 16, 3)

    def _conv(self, name, inputs, outputs, **options):
        self.parts[name] = nn.Conv2d(inputs, outputs, 3, padding=1, **options)
        self.width = outputs

    def _make_conv(self, i):
        self._conv(i, self.width, 6)

    def _make_grouped(self, i):
        self._conv(i, self.width, self.width, groups=2)

    def _make_depthwise(self, i):
        self._conv(i, self.width, 2 * self.width if self.width < 16 else self.width, groups=self.width)

    def _make_residual(self, i):
        self._conv(f"{i}in", self.width, 3)
        self._conv(f"{i}out", 3, self.parts[f"{i}in"].in_channels)

    def _make_concat(self, i):
        width = self.width
        self._conv(i, width, 2)
        self.width = width + 2

    def _make_glu(self, _):
        self.width //= 2

    def _make_scale(self, i):
        self.scales[i] = nn.Parameter(torch.rand(self.width, 1, 1) + 0.5)

    def _make_positions(self, i):
        self.scales[i] = nn.Parameter(torch.rand(1, self.width, 4, 4))

    def _make_norm(self, i):
        self.parts[i] = nn.BatchNorm2d(self.width)
        self.parts[i].running_mean.normal_()

    def _step(self, kind, i, x):  # noqa: PLR0911 - one line per kind
        n, c, h, w = x.shape
        if kind == "residual":
            return self.parts[f"{i}out"](F.relu(self.parts[f"{i}in"](x))) + x
        if kind == "concat":
            return torch.cat([self.parts[i](x), x], 1)
        if kind == "glu":
            a, b = x.chunk(2, 1)
            return a * torch.sigmoid(b)
        if kind == "shuffle":
            return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if kind == "flip":
            return torch.cat([x.flip(1), x], 1).chunk(2, 1)[0]
        if kind == "excite":
            return x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        if kind == "spatial":
            return x * torch.sigmoid(x.mean(1, keepdim=True))
        if kind == "tokens":
            return x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (h, w))
        if kind in {"scale", "positions"}:
            return x * self.scales[i]
        return self.parts[i](x)

    def forward(self, x):
        x = self.parts["stem"](x)
        for i, kind in enumerate(self.kinds):
            x = F.relu(self._step(kind, str(i), x) + 0.1)
        return self.head(x.flatten(1))


KINDS = [
    "conv",
    "grouped",
    "depthwise",
    "residual",
    "concat",
    "glu",
    "shuffle",
    "flip",
    "excite",
    "spatial",
    "tokens",
    "scale",
    "positions",
    "norm",
]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_random_networks(kinds, seed):
    module, example = Random(kinds, seed).eval(), torch.randn(2, 3, 4, 4)
    coupling = couple(module, example)
    masks = random_masks(coupling, seed)
    proof = prove(module, cut(module, coupling, masks), coupling, masks, [example])
    assert proof.holds, (proof, kinds)
    assert all(layer.frozen for layer in coupling.layers if layer not in coupling.prunable)
