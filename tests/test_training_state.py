"""What surgery must leave as it is in a network that is being trained, and what a cut module says of itself."""

from functools import cache

import pytest
import torch
from torch import nn

from infprune.coupling.couple import couple
from infprune.models.attention import Attention
from infprune.surgery import cut, resized
from labelled import Net

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def positions(x):
    """Mean over everything behind the channels."""
    return x.flatten(2).mean(2)


def stack(width, layer, inputs, make=nn.Conv2d, factor=1):
    """A convolution of `width` channels, `layer`, and a linear layer that reads `factor * width` channels."""
    net = Net(lambda s, x: s.head(positions(s.layer(s.first(x)))), first=make(3, width, 1), layer=layer)
    net.head = nn.Linear(inputs or factor * width, 2)
    return net


def words(width):
    code = lambda s, x: s.head(s.inner(s.table(x.long().abs().clamp(0, 4))).mean(1))  # noqa: E731
    table = nn.Embedding(5, width, padding_idx=1)
    return Net(code, table=table, inner=nn.Linear(width, 7), head=nn.Linear(7, 2))


def tokens(width, norm):
    code = lambda s, x: s.head(s.norm(s.first(x.flatten(2).transpose(1, 2))).mean(1))  # noqa: E731
    return Net(code, first=nn.Linear(3, width), norm=norm, head=nn.Linear(width, 2))


def turned(kind, **options):
    return lambda w: stack(w, kind(w, 5, 3, **options), 5, _conv(kind))


def _conv(kind):
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[int(kind.__name__[-2])]


# Networks by the width of their first layer; all modules of one cut from 8 to 4 must be those of the one made with 4.
MODULES = {
    "convolution": lambda w: stack(w, nn.Conv2d(w, 5, 3, stride=2, padding=1, dilation=2), 5),
    "convolution, same": lambda w: stack(w, nn.Conv2d(w, 5, 3, padding="same", padding_mode="reflect"), 5),
    "conv1d": lambda w: stack(w, nn.Conv1d(w, 5, 2), 5, nn.Conv1d),
    "conv3d": lambda w: stack(w, nn.Conv3d(w, 5, 2, bias=False), 5, nn.Conv3d),
    "groups": lambda w: stack(w, nn.Conv2d(w, 6, 3, groups=2), 6),
    "depthwise": lambda w: stack(w, nn.Conv2d(w, w, 3, groups=w), 0),
    "depthwise, three filters": lambda w: stack(w, nn.Conv2d(w, 3 * w, 3, groups=w), 0, factor=3),
    "transposed": turned(nn.ConvTranspose2d, stride=2, padding=1, output_padding=1),
    "transposed 1d": turned(nn.ConvTranspose1d, bias=False),
    "transposed 3d": turned(nn.ConvTranspose3d, dilation=2),
    "transposed, groups": lambda w: stack(w, nn.ConvTranspose2d(w, 6, 3, groups=2), 6),
    "transposed, depthwise": lambda w: stack(w, nn.ConvTranspose2d(w, w, 3, groups=w), 0),
    "linear": lambda w: nn.Sequential(nn.Conv2d(3, w, 1), nn.Flatten(), nn.Linear(16 * w, 6), nn.Linear(6, 2)),
    "batch norm": lambda w: stack(w, nn.BatchNorm2d(w, eps=0.1, momentum=0.3), 0),
    "batch norm 1d": lambda w: stack(w, nn.BatchNorm1d(w, affine=False), 0, nn.Conv1d),
    "batch norm 3d": lambda w: stack(w, nn.BatchNorm3d(w, track_running_stats=False), 0, nn.Conv3d),
    "instance norm": lambda w: stack(w, nn.InstanceNorm2d(w, affine=True), 0),
    "instance norm with statistics": lambda w: stack(w, nn.InstanceNorm1d(w, track_running_stats=True), 0, nn.Conv1d),
    "instance norm without tensors": lambda w: stack(w, nn.InstanceNorm2d(w), 0),
    "one group": lambda w: stack(w, nn.GroupNorm(1, w), 0),
    "whole groups": lambda w: stack(w, nn.GroupNorm(w // 2, w), 0),
    "layer norm": lambda w: tokens(w, nn.LayerNorm(w, eps=0.1)),
    "layer norm without bias": lambda w: tokens(w, nn.LayerNorm(w, bias=False)),
    "rms norm": lambda w: tokens(w, nn.RMSNorm(w)),
    "embedding": words,
}


def said(module):
    """What a module says of itself in print and in its public attributes."""
    own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in {"training", "code"}}
    return type(module), module.extra_repr(), own, getattr(module, "_reversed_padding_repeated_twice", None)


@pytest.mark.parametrize("kind", MODULES)
def test_cut_modules_say_what_modules_of_that_width_say(kind):
    wide, narrow = (MODULES[kind](width).eval() for width in (8, 4))
    shape = {"Conv1d": (3, 4), "Conv3d": (3, 4, 4, 4)}.get(type(next(wide.children())).__name__, (3, 4, 4))
    x = torch.randn(2, *((6,) if kind == "embedding" else shape))
    coupling = couple(wide, x)
    layer = coupling.prunable[0]
    stays = torch.arange(layer.size) >= layer.size // 2
    small = cut(wide, coupling, {layer.name: stays})
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in narrow.state_dict().items()}
    found, truth = ({n: said(m) for n, m in net.named_modules()} for net in (small, narrow))
    for name, expected in truth.items():
        assert found[name] == expected, name
    assert small(x).shape == narrow(x).shape


# --- tensors ----------------------------------------------------------------------------------------------------------


def maps():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.GroupNorm(1, 6),
        nn.Conv2d(6, 5, 2),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(5 * 49, 3),
    )


def volumes():
    return nn.Sequential(nn.Conv3d(3, 8, 2), nn.BatchNorm3d(8), nn.Conv3d(8, 5, 2), nn.Flatten(), nn.Linear(5 * 8, 3))


class Tokens(nn.Module):
    """Attention with dropout, behind a layer norm."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.attention = Attention(nn.MultiheadAttention(6, 2, batch_first=True, dropout=0.1))

    def forward(self, x):
        x = self.norm(self.stem(x))
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


NETWORKS = {"maps": (maps, (3, 4, 4)), "volumes": (volumes, (3, 4, 4, 4)), "tokens": (Tokens, (5, 4))}


@cache
def coupled(kind):
    """It names tensors, so it fits any network of that kind, whatever its dtype and mode."""
    make, shape = NETWORKS[kind]
    return couple(make(), torch.randn(2, *shape))


def halved(kind, net):
    """A network of that kind without every second channel of every layer."""
    coupling = coupled(kind)
    assert len(coupling.prunable) > 1
    return cut(net, coupling, {x.name: torch.arange(x.size) % 2 == 0 for x in coupling.prunable})


@pytest.mark.parametrize("kind", NETWORKS)
def test_modes_and_flags_are_kept(kind):
    make, _ = NETWORKS[kind]
    for seed in range(3):
        net, generator = make(), torch.Generator().manual_seed(seed)
        for m in net.modules():
            m.training = bool(torch.rand(1, generator=generator) < 0.5)
        for p in net.parameters():
            p.requires_grad_(bool(torch.rand(1, generator=generator) < 0.5))
        modes, flags = [m.training for m in net.modules()], {n: p.requires_grad for n, p in net.named_parameters()}
        small = halved(kind, net)
        assert [m.training for m in small.modules()] == [m.training for m in net.modules()] == modes
        assert {n: p.requires_grad for n, p in small.named_parameters()} == flags
        assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
        assert {False, True} == set(flags.values())
        assert all(p.is_leaf and p.grad is None for p in small.parameters())
        shrunk = [n for n, p in small.named_parameters() if p.shape != net.get_parameter(n).shape]
        assert any(not flags[n] for n in shrunk)  # what does not learn is cut all the same
        assert any(flags[n] for n in shrunk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", NETWORKS)
def test_dtypes_are_kept(kind, dtype):
    make, shape = NETWORKS[kind]
    net = make().to(dtype).eval()
    small = halved(kind, net)
    for (name, found), dense in zip(small.state_dict().items(), net.state_dict().values(), strict=True):
        assert found.dtype == dense.dtype, name
    assert small(torch.randn(2, *shape).to(dtype)).dtype == dtype


def test_each_tensor_keeps_a_dtype_of_its_own():
    net = maps().eval()
    net[1].double()
    net[3].to(torch.bfloat16)
    kept = {f"{i}.{n}": {0: torch.arange(t.shape[0] // 2)} for i in (1, 3) for n, t in net[i].named_parameters()}
    small = resized(net, kept)
    assert [small[i].weight.dtype for i in (0, 1, 3)] == [torch.float32, torch.float64, torch.bfloat16]
    assert small[3].weight.shape == (4, 6, 2, 2)
    assert torch.equal(small[3].weight, net[3].weight[:4])


@pytest.mark.parametrize("kind", ["maps", "volumes"])
def test_memory_formats_are_kept(kind):
    make, shape = NETWORKS[kind]
    for last in (True, False):
        net = make().eval()
        form = FORMATS[len(shape) + 1] if last else torch.contiguous_format
        net = net.to(memory_format=form)
        small = halved(kind, net)
        weights = [p for p in small.parameters() if p.dim() == len(shape) + 1]
        assert len(weights) >= 2
        for p in weights:
            assert p.is_contiguous(memory_format=form)
            assert p.is_contiguous() == (not last or p.shape[1] == 1 or p[0, 0].numel() == 1)
        x = torch.randn(2, *shape)
        assert torch.allclose(small(x), small.to(memory_format=torch.contiguous_format)(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["maps", "volumes"])
def test_counters_and_statistics_of_norms_are_kept(kind):
    make, shape = NETWORKS[kind]
    net = make().train()
    for _ in range(3):
        net(torch.randn(4, *shape))
    small = halved(kind, net)
    assert small[1].num_batches_tracked.item() == net[1].num_batches_tracked.item() == 3
    assert small[1].num_batches_tracked is not net[1].num_batches_tracked
    for name in ("running_mean", "running_var", "weight", "bias"):
        assert torch.equal(getattr(small[1], name), getattr(net[1], name)[::2])
    assert (small[1].momentum, small[1].eps) == (net[1].momentum, net[1].eps)
    small(torch.randn(4, *shape))
    assert small[1].num_batches_tracked.item() == 4
    assert net[1].num_batches_tracked.item() == 3


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_frozen_stays_as_it_is_when_the_cut_network_learns(kind):
    make, shape = NETWORKS[kind]
    net = make()
    for n, p in net.named_parameters():
        p.requires_grad_(n in {"0.weight", "stem.weight", "8.bias", "4.bias", "head.bias"})
    small = halved(kind, net).train()
    before = {n: p.clone() for n, p in small.named_parameters()}
    optimizer = torch.optim.SGD([p for p in small.parameters() if p.requires_grad], lr=0.1)
    nn.functional.cross_entropy(small(torch.randn(4, *shape)), torch.arange(4) % 3).backward()
    optimizer.step()
    moved = {n for n, p in small.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n, p in small.named_parameters() if p.requires_grad}
    assert len(moved) >= 2
