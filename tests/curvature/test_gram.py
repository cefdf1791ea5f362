import pytest
import torch
from torch import nn
from torch.testing import assert_close

import reference
from infprune.curvature import gram as gram_module
from infprune.curvature.gram import Columns, Lags, add_product, gram_of, lagged, mirrored, products
from infprune.curvature.positions import ALL, Positions


def convolution(channels=3, outputs=2, **options):
    return nn.Conv2d(channels, outputs, 3, **{"padding": 1, **options}).double()


def dense(module, x):
    columns = reference.columns(module, x, ones=True)
    return columns @ columns.mT


SPACES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 5), (6, 5), (8, 3)]


@pytest.mark.parametrize("space", SPACES)
def test_thirteen_lags_are_the_patches(space):
    module, x = convolution(), torch.randn(4, 3, *space, dtype=torch.float64)
    lags = Lags()
    lags.add(x[:1], ALL)
    lags.add(x[1:], ALL)
    assert_close(lags.total(), dense(module, x), rtol=1e-12, atol=1e-12)


def test_inputs_of_several_sizes_add_up():
    module, lags = convolution(), Lags()
    xs = [torch.randn(2, 3, *space, dtype=torch.float64) for space in SPACES]
    for x in xs:
        lags.add(x, ALL)
    assert_close(lags.total(), sum(dense(module, x) for x in xs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_products_are_counted(space, monkeypatch):
    seen = []
    monkeypatch.setattr(gram_module, "_correlate", lambda *of: seen.append(of[2].numel() // of[2].shape[-1]))
    Lags().add(torch.randn(1, 2, *space), ALL)
    assert sum(seen) == products(*space)


OTHERS = {
    "stride": convolution(stride=2),
    "dilation": convolution(dilation=2, padding=2),
    "groups": convolution(4, groups=2),
    "no padding": convolution(padding=0),
    "reflected": convolution(padding_mode="reflect"),
    "1x1": nn.Conv2d(3, 2, 1),
    "5x5": nn.Conv2d(3, 2, 5, padding=1),
    "conv1d": nn.Conv1d(3, 2, 3, padding=1),
    "transposed": nn.ConvTranspose2d(3, 2, 3, padding=1),
    "linear": nn.Linear(3, 2),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_modules_have_no_lags(name):
    assert not lagged(OTHERS[name])


def test_lags_are_taken_where_they_cost_less():
    module = convolution(padding="same")
    assert isinstance(gram_of(module, torch.zeros(1, 3, 8, 8), Positions(64)), Lags)
    assert isinstance(gram_of(module, torch.zeros(1, 3, 64, 64), ALL), Lags)
    assert isinstance(gram_of(module, torch.zeros(1, 3, 64, 64), Positions(64)), Columns)


def test_only_half_of_a_symmetric_product_is_multiplied(monkeypatch):
    monkeypatch.setattr(gram_module, "BLOCK", 4)
    rows = torch.randn(11, 7, dtype=torch.float64)
    total = torch.zeros(11, 11, dtype=torch.float64)
    add_product(total, rows)
    assert int((total == 0).sum()) == 2 * 16 + 4 * 3 - 16 + 4 * 3
    add_product(total, 2 * rows)
    found = mirrored(total[None])[0]
    assert_close(found, 5 * rows @ rows.T, rtol=1e-13, atol=1e-13)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("kind", [Lags, lambda: Columns(convolution().float())])
def test_a_total_is_new_and_may_be_wider(kind):
    sums = kind()
    sums.add(torch.randn(2, 3, 6, 6), ALL)
    first = sums.total()
    wide = sums.total(torch.float64)
    assert (first.dtype, wide.dtype) == (torch.float32, torch.float64)
    assert_close(wide.float(), first, rtol=1e-6, atol=1e-6)
    wide.zero_(), first.zero_()
    assert sums.total().abs().max() > 1


def test_float32_sums_are_good_to_a_millionth():
    """What a float32 network's factors lose against float64 ones, relative to the mean of the diagonal."""
    module = convolution(16)
    x = torch.relu(torch.randn(64, 16, 8, 8, dtype=torch.float64))
    for kind in (Lags(), Columns(module.float())):
        for part in x.float().split(8):
            kind.add(part, ALL)
        truth = dense(module, x)
        assert float((kind.total() - truth).abs().max() / truth.diagonal(dim1=1, dim2=2).mean()) < 1e-6
