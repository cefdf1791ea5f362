import zlib

import pytest
import torch
from sklearn.datasets import load_digits

from infprune.data import DATASETS
from infprune.data.dataset import DataRequest
from infprune.errors import ConfigError


def source(**args):
    return DATASETS["digits"](DataRequest("digits", None, False, args))


def test_digits():
    data = source()
    assert (data.classes, data.input_shape) == (10, (1, 8, 8))
    assert (len(data.train), len(data.test)) == (1438, 359)
    rows = torch.cat([data.train.x, data.test.x])
    assert (rows.min(), rows.max(), rows.dtype) == (0, 1, torch.float32)
    assert rows.sum().item() * 16 == load_digits().images.sum()


def test_the_test_rows_never_change():
    """The shipped weights were trained on the other rows; a change here would leak."""
    test = source().test
    assert test.y[:12].tolist() == [1, 4, 8, 0, 5, 5, 0, 4, 7, 0, 2, 2]
    assert zlib.crc32((test.x * 16).byte().numpy().tobytes()) == 1_246_718_438


def test_stratified():
    data = source()
    share = torch.bincount(data.test.y) / (torch.bincount(data.test.y) + torch.bincount(data.train.y))
    assert share.sub(0.2).abs().max() < 1 / 150


def test_takes_no_arguments():
    with pytest.raises(ConfigError, match=r"\['seed'\]; it takes none"):
        source(seed=1)
