"""Several inputs in, logits out of whatever a network returns."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from forms import TwoInputs, WithAuxiliary
from infprune.errors import ArchitectureError
from infprune.forward import each, head, logits, move, run, shape, size, tensors, uncalled

X = torch.arange(12.0).view(4, 3)
TOKENS = torch.arange(8).view(4, 2) % 3
Z = torch.arange(8.0).view(4, 2)


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *_):
        return self.value


OUTPUTS = {
    "tensor": Z,
    "tuple": (Z, -Z),
    "list": [Z],
    "nested": ((Z, -Z), -Z),
    "mapping": {"loss": torch.ones(()), "logits": Z},
    "out": {"aux": -Z, "out": Z},
    "unnamed": {"main": Z, "second": -Z},
    "named tuple": namedtuple("Two", ["features", "logits"])(X, Z),  # noqa: PYI024 - any will do
    "object": SimpleNamespace(logits=Z),
    "no logits there": {"logits": None, "out": Z},
}


@pytest.mark.parametrize("form", OUTPUTS)
@pytest.mark.parametrize("x", [X, (TOKENS, X)], ids=["one", "two"])
def test_logits_are_found(form, x):
    assert logits(Returns(OUTPUTS[form]), x) is Z


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (Z[:3], r"\(3, 2\)"),
        (Z[0], r"\(2,\)"),
        ((Z[None], Z), r"\(1, 4, 2\)"),
        ({"logits": "many"}, "str"),
        (None, "NoneType"),
        ((), "tuple"),
    ],
)
def test_what_is_not_logits_is_told(output, got):
    with pytest.raises(ArchitectureError, match=rf"expected logits \(4, classes\) from Returns, got {got}"):
        logits(Returns(output), X)


def test_a_tuple_of_inputs_is_the_arguments():
    module = TwoInputs()
    tokens, values = torch.randint(12, (4, 6)), torch.randn(4, 5)
    assert torch.equal(run(module, (tokens, values)), module(tokens, values))
    assert torch.equal(run(nn.Identity(), X), X)


@pytest.mark.parametrize(("x", "sample"), [(X, (3,)), ((TOKENS, X), ((2,), (3,))), ((X,), ((3,),))])
def test_sizes_and_parts(x, sample):
    assert (size(x), shape(x)) == (4, sample)
    first = head(x, 3)
    assert isinstance(first, tuple) == isinstance(x, tuple)
    assert [t.tolist() for t in tensors(first)] == [t[:3].tolist() for t in tensors(x)]
    assert all(t.is_meta for t in tensors(move(x, "meta")))
    assert [t.tolist() for t in tensors(each(torch.neg, x))] == [(-t).tolist() for t in tensors(x)]


class Careful(nn.Module):
    """Calls its dropout in train mode only, and hands its second layer's weight to a function."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2)

    def forward(self, x):
        x = self.first(x)
        return F.linear(self.drop(x) if self.training else x, self.second.weight)


def test_uncalled_are_modules_with_weights_that_eval_mode_leaves_out():
    module = WithAuxiliary().train()
    assert uncalled(module, torch.randn(2, 1, 8, 8)) == [module.side]
    assert module.training
    careful = Careful()
    assert uncalled(careful, X) == [careful.second]
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True).requires_grad_(False)
    assert uncalled(layer, torch.randn(2, 5, 6)) == [layer.self_attn.out_proj]
    assert not any(m._forward_pre_hooks for m in layer.modules())
