import os
import sys
from pathlib import Path

import pytest
import torch

from infprune.data import DATASETS
from infprune.data.dataset import DataRequest
from infprune.errors import ConfigError, InputError


def load(root, **args):
    return DATASETS["libsvm"](DataRequest("libsvm", root, False, args))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a").write_text("+1 1:0.5 4:-1\n-1 2:1\n3 1:2 # comment\n")
    (tmp_path / "b").write_text("3 1:1\n-1 3:1\n")
    return tmp_path


def test_dense_features_and_ordered_labels(files):
    data = load(files, train="a", test="b")
    assert (data.classes, data.input_shape) == (3, (4,))
    assert data.train.x.tolist() == [[0.5, 0, 0, -1], [0, 1, 0, 0], [2, 0, 0, 0]]
    assert data.train.y.tolist() == [1, 0, 2]
    assert data.test.x.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]  # as wide as the training file
    assert data.test.y.tolist() == [2, 0]


@pytest.mark.parametrize("args", [{}, {"train": "a"}, {"train": "a", "test": 3}])
def test_both_names_are_needed(files, args):
    with pytest.raises(ConfigError, match=r"data\.args\.(train|test) must name a LIBSVM file"):
        load(files, **args)


def test_missing_file(files):
    with pytest.raises(InputError, match=r"LIBSVM file .*c not found"):
        load(files, train="a", test="c")


@pytest.mark.parametrize("text", [b"one 1:2\n", b"1 1:x\n", b"\x00\xff\xfe", b"1 5:1 2:1\n", b"1 1:1e\n", b""])
def test_corrupt(files, text):
    (files / "a").write_bytes(text)
    with pytest.raises(InputError) as caught:
        load(files, train="a", test="b")
    assert str(files / "a") in str(caught.value) or "does not occur in the training file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unseen_test_label(files):
    (files / "b").write_text("7 1:1\n")
    with pytest.raises(InputError, match="b: label 7 does not occur in the training file"):
        load(files, train="a", test="b")


def test_features_have_no_names(files):
    assert load(files, train="a", test="b").features is None


def test_one_hot_features_in_the_order_of_the_values(files):
    (files / "a").write_text("0 1:-0.333333 2:1\n1 1:0.333\n")
    (files / "b").write_text("1 2:-0.3340\n")
    data = load(files, train="a", test="b", one_hot=[1, -1 / 3, 1 / 3, 0])
    assert (data.classes, data.input_shape) == (2, (8,))
    assert data.train.x.tolist() == [[0, 1, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 1]]  # left out: 0
    assert data.test.x.tolist() == [[0, 0, 0, 1, 0, 1, 0, 0]]


def test_one_hot_takes_the_nearest_of_close_values(files):
    (files / "a").write_text("0 1:0.0009\n1 1:0.0001\n")
    (files / "b").write_text("0 1:0.0005001\n")
    data = load(files, train="a", test="b", one_hot=[0, 0.001])
    assert data.train.x.tolist() == [[0, 1], [1, 0]]
    assert data.test.x.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        ("0 1:1 2:1\n1 1:1 2:0.998\n", "0 1:1 2:1\n", r"/a: sample 1 has 0\.998 as feature 1 \(both counted from 0\)"),
        ("0 1:1 2:1\n1 2:1\n", "0 1:1 2:1\n", r"/a: sample 1 has 0 as feature 0 .* lacks; add it \(an entry left out"),
        ("0 1:1 2:-1\n", "0 1:1\n", r"/b: sample 0 has 0 as feature 1 .* data\.args\.one_hot \[-1, 1\] lacks"),
        ("0 1:nan 2:1\n", "0 1:1 2:1\n", "/a: sample 0 has nan as feature 0"),
    ],
)
def test_one_hot_refuses_other_values(files, a, b, text):
    (files / "a").write_text(a)
    (files / "b").write_text(b)
    with pytest.raises(InputError, match=text) as caught:
        load(files, train="a", test="b", one_hot=[-1, 1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("one_hot", [1, "01", [], [1], [1, 1.0], [0, "1"], [0, True], [0, None], [0, float("nan")], {}])
def test_one_hot_must_list_numbers(files, one_hot):
    with pytest.raises(ConfigError) as caught:
        load(files, train="a", test="b", one_hot=one_hot)
    assert str(caught.value) == f"data.args.one_hot must be a list of two or more different numbers, got {one_hot!r}"


def test_too_wide(files, monkeypatch):
    monkeypatch.setattr(sys.modules[DATASETS["libsvm"].__module__], "LIMIT", 40)
    with pytest.raises(InputError, match="3 x 4 dense features"):
        load(files, train="a", test="b")
    monkeypatch.setattr(sys.modules[DATASETS["libsvm"].__module__], "LIMIT", 48)
    assert load(files, train="a", test="b").input_shape == (4,)
    with pytest.raises(InputError, match="3 x 8 dense features"):
        load(files, train="a", test="b", one_hot=[0, 1])


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_DATA" not in os.environ, reason="needs INFPRUNE_DATA")
def test_splice():
    data = load(Path(os.environ["INFPRUNE_DATA"]), train="libsvm/splice_scale", test="libsvm/splice_scale.t")
    assert (data.classes, data.input_shape) == (2, (60,))
    assert len(data.train) + len(data.test) == 3175
    assert set(data.train.x.mul(3).round().unique().tolist()) == {-3, -1, 1, 3}  # four letters on [-1, 1]


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_DATA" not in os.environ, reason="needs INFPRUNE_DATA")
def test_one_hot_splice():
    files = {"train": "libsvm/splice_scale", "test": "libsvm/splice_scale.t"}
    letters = [-1, -0.333333, 0.333333, 1]
    plain = load(Path(os.environ["INFPRUNE_DATA"]), **files)
    data = load(Path(os.environ["INFPRUNE_DATA"]), **files, one_hot=letters)
    assert data.input_shape == (240,)
    for part, numbers in ((data.train, plain.train), (data.test, plain.test)):
        indicators = part.x.view(-1, 60, 4)
        assert torch.equal(indicators.sum(2), torch.ones(len(part), 60))
        torch.testing.assert_close(indicators @ torch.tensor(letters), numbers.x, rtol=0, atol=1e-6)
