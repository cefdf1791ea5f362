"""Norms: exact per channel and per whole group; inexact, but defined, where statistics run over the channels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from infprune.coupling.couple import couple
from infprune.coupling.groups import Role
from infprune.proof import prove
from infprune.surgery import cut, silenced
from labelled import CONSUMER, PRODUCER, THROUGH, Net, conv, pooled, slices
from proving import batch, facts, proved

STAYS = torch.tensor([True, False, True, True, False, True])
GONE = ~STAYS


def lively(norm):
    """Scales and shifts away from 1 and 0, for a wrong position to show."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def on_maps(norm, code=None):
    code = code or (lambda s, x: s.norm(s.a(x)))
    return Net(lambda s, x: s.head(pooled(code(s, x).sigmoid())), a=conv(3, 6), norm=lively(norm), head=nn.Linear(6, 2))


def on_tokens(norm):
    code = lambda s, x: s.head(s.norm(s.a(x)).sigmoid().mean(1))  # noqa: E731 - the network in one line
    return Net(code, a=nn.Linear(4, 6), norm=lively(norm), head=nn.Linear(6, 2))


def last(s, x):
    """Channels last, as in ConvNeXt."""
    return s.norm(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


MAP, TOKENS = (3, 4, 4), (5, 4)
INEXACT = {
    "layer norm on tokens": (on_tokens(nn.LayerNorm(6)), TOKENS),
    "layer norm without bias": (on_tokens(nn.LayerNorm(6, bias=False)), TOKENS),
    "layer norm, channels last": (on_maps(nn.LayerNorm(6), last), MAP),
    "rms norm": (on_tokens(nn.RMSNorm(6)), TOKENS),
    "rms norm, own epsilon": (on_maps(nn.RMSNorm(6, eps=0.1), last), MAP),
    "one group": (on_maps(nn.GroupNorm(1, 6)), MAP),
}
PER_CHANNEL = {
    "batch norm": on_maps(nn.BatchNorm2d(6)),
    "batch norm without weights": on_maps(nn.BatchNorm2d(6, affine=False)),
    "batch norm without statistics": on_maps(nn.BatchNorm2d(6, track_running_stats=False)),
    "batch norm without anything": on_maps(nn.BatchNorm2d(6, affine=False, track_running_stats=False)),
    "instance norm without anything": on_maps(nn.InstanceNorm2d(6)),
    "instance norm": on_maps(nn.InstanceNorm2d(6, affine=True)),
    "instance norm with statistics": on_maps(nn.InstanceNorm2d(6, track_running_stats=True)),
    "one channel in each group": on_maps(nn.GroupNorm(6, 6)),
    "softmax over positions": on_maps(nn.Softmax(2)),
    "layer norm over positions": on_maps(nn.LayerNorm((4, 4))),
}


def coupled_slices(net, index, dtype=THROUGH):
    """What one layer of the one-line nets must hold: convolution, every tensor of the norm that has channels, head."""
    tensors = {**dict(net.norm.named_parameters()), **dict(net.norm.named_buffers())}
    own = {name for name, t in tensors.items() if t.dim() == 1}
    counted = isinstance(net.norm, nn.modules.batchnorm._NormBase) and not own  # nothing else says how many there are
    return {
        **({("norm@num_features", 0): (Role.SIZE, index)} if counted else {}),
        **{(f"a.{name}", 0): (PRODUCER, index) for name in ("weight", "bias")},
        **{(f"norm.{name}", 0): (dtype, index) for name in own},
        ("head.weight", 1): (CONSUMER, index),
    }


@pytest.mark.parametrize("kind", INEXACT)
def test_statistics_over_channels_are_inexact_and_named(kind):
    net, shape = INEXACT[kind]
    coupling = proved(net, *shape)
    (layer,) = coupling.prunable
    assert layer.inexact == "statistics of norm run over the channels"
    assert slices(layer) == coupled_slices(net, [0, 1, 2, 3, 4, 5])
    assert coupling.norms == {"norm.weight"}
    assert (layer.multiplied, layer.gated) == (False, False)


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_statistics_per_channel_are_exact(kind):
    net = PER_CHANNEL[kind]
    coupling = proved(net, *MAP)
    (layer,) = coupling.prunable
    assert slices(layer) == coupled_slices(net, [0, 1, 2, 3, 4, 5])
    assert layer.inexact is None
    assert coupling.norms == set()


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_stay_whole(groups):
    net = on_maps(nn.GroupNorm(groups, 6))
    coupling = proved(net, *MAP)
    (layer,) = coupling.prunable
    index = torch.arange(6).reshape(groups, -1).tolist()
    assert slices(layer) == coupled_slices(net, index)
    assert layer.inexact is None
    small = cut(net, coupling, {"a": torch.arange(groups) > 0})
    assert (small.norm.num_groups, small.norm.num_channels) == (groups - 1, 6 - 6 // groups)
    assert torch.equal(small.norm.weight, net.norm.weight[6 // groups :])


def test_a_residual_stream_passes_several_norms():
    net = Net(
        lambda s, x: s.head(s.last((y := s.stem(x)) + s.up(s.down(s.first(y)).relu())).mean(1)),
        stem=nn.Linear(4, 6),
        first=lively(nn.LayerNorm(6)),
        down=nn.Linear(6, 3),
        up=nn.Linear(3, 6),
        last=lively(nn.RMSNorm(6)),
        head=nn.Linear(6, 2),
    )
    coupling = proved(net, *TOKENS)
    stream, inner = coupling.prunable
    assert (stream.inexact, inner.inexact) == ("statistics of first run over the channels", None)
    assert coupling.norms == {"first.weight", "last.weight"}
    assert {key for key, (role, _) in slices(stream).items() if role is THROUGH} == {
        ("first.weight", 0),
        ("first.bias", 0),
        ("last.weight", 0),
    }


OVER = "normalised over channels without weights of their own in "
FROZEN = {
    "layer norm without weights": (on_tokens(nn.LayerNorm(6, elementwise_affine=False)), TOKENS, OVER + "layer_norm"),
    "rms norm without weights": (on_tokens(nn.RMSNorm(6, elementwise_affine=False)), TOKENS, OVER + "rms_norm"),
    "one group without weights": (on_maps(nn.GroupNorm(1, 6, affine=False)), MAP, OVER + "group_norm"),
    "channels and positions together": (on_maps(nn.LayerNorm((6, 4, 4))), MAP, OVER + "layer_norm"),
    "groups without weights": (
        on_maps(nn.GroupNorm(3, 6, affine=False)),
        MAP,
        "no weights that follow the channels in group_norm",
    ),
    "softmax": (on_maps(nn.Softmax(1)), MAP, "depends on all channels in softmax.int"),
    "log softmax": (on_tokens(nn.LogSoftmax(-1)), TOKENS, "depends on all channels in log_softmax.int"),
    "cumulative sum": (
        on_maps(nn.Identity(), lambda s, x: s.a(x).cumsum(1)),
        MAP,
        "depends on all channels in cumsum",
    ),
    "normalize": (
        on_maps(nn.Identity(), lambda s, x: F.normalize(s.a(x), dim=1)),
        MAP,
        "reduced over channels in linalg_vector_norm",
    ),
}


@pytest.mark.parametrize("kind", FROZEN)
def test_what_has_no_weights_to_follow_is_frozen(kind):
    net, shape, reason = FROZEN[kind]
    coupling = couple(net.double().eval(), batch(*shape))
    assert facts(coupling) == {"a": reason}
    assert not coupling.prunable


# --- what silencing means where statistics run over the channels ------------------------------------------------------


def by_hand(net, x, stays):
    """The same networks from their definitions, without the channels that go: nothing here is surgery or hooks."""
    image = x.dim() == 4
    y = F.conv2d(x, net.a.weight, net.a.bias, padding=1) if image else x @ net.a.weight.T + net.a.bias
    y = (y.movedim(1, -1) if image else y)[..., stays]
    dims = (1, 2, 3) if isinstance(net.norm, nn.GroupNorm) else (-1,)
    if isinstance(net.norm, nn.RMSNorm):
        eps = torch.finfo(x.dtype).eps if net.norm.eps is None else net.norm.eps
        y = y * (y.square().mean(dims, keepdim=True) + eps).rsqrt()
    else:
        y = (y - y.mean(dims, keepdim=True)) / (y.var(dims, correction=0, keepdim=True) + net.norm.eps).sqrt()
    y = y * net.norm.weight[stays]
    if getattr(net.norm, "bias", None) is not None:
        y = y + net.norm.bias[stays]
    y = y.sigmoid().flatten(1, -2).mean(1)
    return y @ net.head.weight[:, stays].T + net.head.bias


@pytest.mark.parametrize("kind", INEXACT)
def test_silenced_takes_statistics_over_the_channels_that_stay(kind):
    net, shape = INEXACT[kind]
    net, x = net.double().eval(), batch(*shape)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    coupling = couple(net, x)
    truth = by_hand(net, x, STAYS)
    for network in (silenced(net, coupling, {"a": STAYS}), cut(net, coupling, {"a": STAYS})):
        assert_close(network(x), truth, rtol=1e-10, atol=1e-12)
    assert_close(net(x), by_hand(net, x, STAYS | GONE), rtol=1e-10, atol=1e-12)
    plain = silenced(net, coupling, {})  # zeros alone, at the statistics of all channels
    plain.head.weight.data[:, GONE] = 0
    assert (plain(x) - truth).abs().max() > 1e-3
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_layers_that_share_a_norm_with_none_of_the_masks_are_not_touched():
    """Statistics change for the norms of the layers that are cut, and for no others."""
    net = Net(
        lambda s, x: s.head(torch.cat([s.n(s.a(x)), s.m(s.b(x))], -1).sigmoid().mean(1)),
        a=nn.Linear(4, 6),
        n=lively(nn.LayerNorm(6)),
        b=nn.Linear(4, 6),
        m=lively(nn.LayerNorm(6)),
        head=nn.Linear(12, 2),
    ).double()
    x = batch(*TOKENS)
    coupling = couple(net, x)
    y = [m(f(x)).sigmoid().mean(1) for f, m in ((net.a, net.n), (net.b, net.m))]
    z = F.layer_norm(net.a(x)[..., STAYS], (4,), net.n.weight[STAYS], net.n.bias[STAYS]).sigmoid().mean(1)
    found = silenced(net, coupling, {"a": STAYS})(x)
    weight = net.head.weight
    assert_close(found, z @ weight[:, :6][:, STAYS].T + y[1] @ weight[:, 6:].T + net.head.bias, rtol=1e-10, atol=0)
    assert prove(net, cut(net, coupling, {"a": STAYS}), coupling, {"a": STAYS}, [x]).max_relative_error < 1e-12


def test_a_norm_that_a_function_applies():
    net = Net(
        lambda s, x: s.head(F.layer_norm(y := s.a(x), y.shape[-1:], s.gamma, s.beta).sigmoid().mean(1)),
        a=nn.Linear(4, 6),
        gamma=nn.Parameter(torch.rand(6)),
        beta=nn.Parameter(torch.rand(6)),
        head=nn.Linear(6, 2),
    )
    coupling = proved(net, *TOKENS)
    assert coupling.norms == {"gamma"}
    assert coupling.prunable[0].inexact is not None


def test_a_norm_that_is_called_twice():
    net = Net(
        lambda s, x: s.head(s.norm(s.b(s.norm(s.a(x)).relu())).sigmoid().mean(1)),
        a=nn.Linear(4, 6),
        norm=lively(nn.LayerNorm(6)),
        b=nn.Linear(6, 6),
        head=nn.Linear(6, 2),
    )
    (layer,) = proved(net, *TOKENS).prunable
    everywhere = [0, 1, 2, 3, 4, 5]
    assert slices(layer)["b.weight", 0] == (PRODUCER, everywhere)
    assert slices(layer)["b.weight", 1] == (CONSUMER, everywhere)
