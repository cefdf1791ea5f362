import zlib

import pytest
import torch
from sklearn.datasets import load_breast_cancer

from infprune.data import DATASETS
from infprune.data.dataset import DataRequest
from infprune.data.holdout import holdout
from infprune.data.splits import load
from infprune.errors import ConfigError

ROWS = holdout(torch.from_numpy(load_breast_cancer().target), 0.2, 0)


def source(**args):
    return DATASETS["breast_cancer"](DataRequest("breast_cancer", None, False, args))


def test_breast_cancer():
    data = source()
    assert (data.classes, data.input_shape) == (2, (30,))
    assert (len(data.train), len(data.test)) == (455, 114)
    assert torch.bincount(data.train.y).tolist() == [170, 285]
    assert torch.bincount(data.test.y).tolist() == [42, 72]
    assert (data.features[0], data.features[29]) == ("mean radius", "worst fractal dimension")
    assert data.features == tuple(load_breast_cancer().feature_names)
    assert {type(name) for name in data.features} == {str}


def test_the_test_rows_never_change():
    assert ROWS[1][:12].tolist() == [2, 4, 16, 23, 28, 32, 34, 35, 38, 50, 56, 64]
    assert zlib.crc32(ROWS[1].numpy().tobytes()) == 3_211_693_359


def test_standardised_by_training_rows_alone():
    data, bunch, (train, test) = source(), load_breast_cancer(), ROWS
    mean, std = bunch.data[train].mean(0), bunch.data[train].std(0)
    for part, rows in ((data.train, train), (data.test, test)):
        torch.testing.assert_close(part.x, torch.from_numpy((bunch.data[rows] - mean) / std).float())
        assert part.y.tolist() == bunch.target[rows].tolist()
    assert data.train.x.mean(0).abs().max() < 1e-6
    assert (data.train.x.std(0, correction=0) - 1).abs().max() < 1e-6
    assert data.test.x.mean(0).abs().max() > 0.05


def test_splits_carry_the_names_of_the_features():
    data = load("breast_cancer", None, None, download=False, args={}, validation=0.2, seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (364, 91, 114)
    assert data.features == source().features


def test_takes_no_arguments():
    with pytest.raises(ConfigError, match=r"\['seed'\]; it takes none"):
        source(seed=1)
