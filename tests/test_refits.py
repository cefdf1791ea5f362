"""Refits in networks with attention, and with weights that no module calls."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import reference
from infprune.compensation import least_squares
from infprune.coupling.couple import couple
from infprune.models.attention import Attention
from infprune.surgery import cut, kept_positions


class Attending(nn.Module):
    """A block with a residual, a norm over channels and an attention whose weights are modules."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.attention = Attention(nn.MultiheadAttention(6, 2, batch_first=True))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y, need_weights=False)[0]).mean(1))


class Functional(nn.Module):
    """A linear layer, a parameter that a function multiplies with, a linear layer."""

    def __init__(self):
        super().__init__()
        self.a, self.w, self.head = nn.Linear(4, 6), nn.Parameter(torch.randn(6, 5)), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.matmul(self.a(x).relu(), self.w).relu()).mean(1)


NETWORKS = {
    Attending: ["attention.query", "attention.key", "attention.value", "attention.out", "head"],
    Functional: ["head"],
}


def recorded(net, name, x):
    calls = []
    hook = net.get_submodule(name).register_forward_hook(lambda _, args, y: calls.append((args[0], y)))
    with torch.no_grad():
        net(x)
    hook.remove()
    (call,) = calls
    return call


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_module_is_refitted_in_order_to_what_the_dense_one_made(kind):
    dense, x = kind().double().eval(), torch.randn(60, 5, 4, dtype=torch.float64)
    coupling = couple(dense, x[:4])
    masks = {layer.name: torch.arange(layer.size) % 3 != 1 for layer in coupling.prunable}
    kept = kept_positions(coupling, masks)
    small, by_hand = cut(dense, coupling, masks), cut(dense, coupling, masks)
    for name in NETWORKS[kind]:
        owner, (a, _), (_, y) = by_hand.get_submodule(name), recorded(by_hand, name, x), recorded(dense, name, x)
        rows = kept.get(f"{name}.weight", {}).get(0, torch.arange(y.shape[-1]))
        X, Y = reference.columns(owner, a, ones=True), reference.rows(owner, y[..., rows])
        near = torch.cat([owner.weight, owner.bias[:, None]], 1).detach()[None]
        V = reference.least_squares(X, Y, near=near)[0]
        assert (V - near[0]).abs().max() > 1e-3
        owner.weight.data, owner.bias.data = V[:, :-1], V[:, -1]
    before = {n: p.clone() for n, p in small.named_parameters()}
    fits = least_squares(dense, small, coupling, kept, [(x, torch.zeros(60, dtype=torch.int64))], damping=0)
    assert [fit.module for fit in fits] == NETWORKS[kind]
    assert all(0 <= fit.after <= fit.before for fit in fits)
    for name in NETWORKS[kind]:  # the weights themselves are not determined: a layer norm makes dependent columns
        assert_close(recorded(small, name, x)[1], recorded(by_hand, name, x)[1], rtol=1e-6, atol=1e-7, msg=name)
    for name, p in small.named_parameters():
        refitted = name.rpartition(".")[0] in NETWORKS[kind]
        assert torch.equal(p, before[name]) != refitted, name
    assert_close(small(x), by_hand(x), rtol=1e-6, atol=1e-7)
    assert F.mse_loss(small(x), dense(x)) < F.mse_loss(cut(dense, coupling, masks)(x), dense(x))
