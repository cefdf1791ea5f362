import pytest
import torch
from torch import nn
from torch.testing import assert_close

import reference
from infprune.curvature import gram as gram_module
from infprune.curvature import patches
from infprune.curvature.gram import gram
from infprune.curvature.positions import Positions

EXPLICIT = {
    "linear": (nn.Linear(5, 4), (3, 5)),
    "linear on sequences": (nn.Linear(5, 4), (3, 6, 5)),
    "linear on grids": (nn.Linear(5, 4, bias=False), (3, 2, 6, 5)),
    "conv": (nn.Conv2d(3, 4, 3), (3, 3, 6, 5)),
    "1x1": (nn.Conv2d(3, 4, 1), (3, 3, 4, 5)),
    "padding": (nn.Conv2d(3, 4, 3, padding=(1, 2)), (3, 3, 6, 5)),
    "stride": (nn.Conv2d(3, 4, 3, stride=(2, 3), padding=1), (3, 3, 7, 6)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=(2, 1)), (3, 3, 7, 6)),
    "oblong kernel": (nn.Conv2d(3, 4, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(3, 2)), (3, 3, 8, 8)),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 5, 4)),
    "depthwise": (nn.Conv2d(4, 8, 3, stride=2, groups=4, bias=False), (3, 4, 5, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2), (3, 3, 9)),
    "conv3d": (nn.Conv3d(2, 4, (1, 2, 2), stride=(1, 1, 2), padding=(0, 1, 0), groups=2), (2, 2, 3, 3, 4)),
}
PADDED = {
    "same": (nn.Conv2d(3, 4, (2, 3), padding="same", dilation=(2, 1)), (3, 3, 6, 5)),
    "same, one side more": (nn.Conv2d(3, 4, (2, 3), padding="same"), (3, 3, 6, 5)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (3, 3, 6, 5)),
    "reflect": (nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (3, 3, 6, 5)),
    "replicate": (nn.Conv2d(3, 4, 3, padding=2, padding_mode="replicate"), (3, 3, 6, 5)),
    "circular": (nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular", stride=2), (3, 3, 6)),
}
ALL = EXPLICIT | PADDED


def variant(name):
    module, shape = ALL[name]
    return module.double(), torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("name", EXPLICIT)
def test_columns_are_those_of_the_loops(name, ones):
    module, x = variant(name)
    assert torch.equal(patches.columns(module, x, ones=ones), reference.columns(module, x, ones=ones))


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch itself copies the input there
@pytest.mark.parametrize("name", ALL)
def test_weight_times_columns_is_the_output(name):
    module, x = variant(name)
    found = patches.columns(module, x, ones=False)
    weight = module.weight.reshape(len(found), -1, found.shape[1])
    y = module(x)
    bias = torch.zeros(len(module.weight), dtype=x.dtype) if module.bias is None else module.bias
    assert_close(weight @ found + bias.reshape(len(found), -1, 1), patches.outputs(module, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EXPLICIT)
def test_outputs_are_those_of_the_loops(name):
    module, x = variant(name)
    y = module(x).detach()
    assert torch.equal(patches.outputs(module, y), reference.rows(module, y))


@pytest.mark.parametrize("name", EXPLICIT)
def test_gram_sums_outer_products(name):
    module, x = variant(name)
    found = gram(module, x)
    truth = torch.zeros_like(found)
    for column in reference.columns(module, x, ones=True).unbind(-1):
        truth += column[:, :, None] * column[:, None, :]
    assert_close(found, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 5_000, 1 << 40])
@pytest.mark.parametrize("name", ["linear on sequences", "groups", "conv1d", "circular"])
def test_gram_does_not_depend_on_the_chunks(name, limit, monkeypatch):
    module, x = variant(name)
    whole = gram(module, x)
    parts = patches.chunks(module, x, limit)
    assert [n for part, _ in parts for n in range(len(x))[part]] == [0, 1, 2]
    assert len(parts) == {1: 3, 1 << 40: 1}.get(limit, len(parts))
    monkeypatch.setattr(gram_module, "chunks", lambda *_, **__: parts)
    assert_close(gram(module, x), whole, rtol=1e-12, atol=1e-12)


def test_chunks_bound_the_columns():
    module, x = nn.Conv2d(3, 4, 3, padding=1), torch.randn(50, 3, 6, 5)
    limit = 20_000
    sizes = [patches.columns(module, x[part], ones=False).nbytes for part, _ in patches.chunks(module, x, limit)]
    assert len(sizes) > 5
    assert limit / 2 < max(sizes) <= limit


SAMPLED = ["linear on sequences", "groups", "conv1d", "padding"]


@pytest.mark.parametrize("name", SAMPLED)
def test_a_grid_of_positions_sums_as_all_do(name):
    """Of equal samples, each offset of the grid once: the estimate is then the sum itself."""
    module, x = variant(name)
    y = module(x[:1])
    space = y.shape[1:-1] if isinstance(module, nn.Linear) else y.shape[2:]
    at = Positions(2, first=3)
    weight = at.weight(space)
    assert weight > 1
    same = x[:1].expand(2 * weight, *x.shape[1:])
    assert patches.columns(module, same, ones=True, at=at).shape[2] < patches.columns(module, same, ones=True).shape[2]
    truth = gram(module, same)
    assert_close(gram(module, same, at=at), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLED)
def test_grids_do_not_depend_on_the_batches(name):
    module, x = variant(name)
    x = torch.cat([x, 2 * x, -x])
    parts = [gram(module, x[i:j], at=Positions(2, 5 + i)) for i, j in ((0, 2), (2, 7), (7, 9))]
    whole = gram(module, x, at=Positions(2, 5))
    assert_close(torch.stack(parts).sum(0), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLED)
def test_outputs_stand_at_the_positions_of_the_columns(name):
    module, x = variant(name)
    at = Positions(2, first=1)
    y = patches.outputs(module, module(x), at)
    ones = patches.columns(module, x, ones=True, at=at)
    bias = torch.zeros(y.shape[:2], dtype=x.dtype) if module.bias is None else module.bias.reshape(y.shape[:2])
    weight = torch.cat([patches.matrix(module), bias[..., None]], -1)
    assert_close(weight @ ones, y, rtol=1e-12, atol=1e-12)


def test_steps_of_a_grid():
    assert Positions().steps((7, 9)) == (1, 1)
    assert Positions(64).steps((32, 32)) == (4, 4)
    assert Positions(64).steps((8, 8)) == (1, 1)
    assert Positions(4).steps((2, 2048)) == (2, 512)
    assert Positions(10).steps(()) == ()
