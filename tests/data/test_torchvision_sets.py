import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from infprune.data import DATASETS
from infprune.data.dataset import DataRequest
from infprune.errors import ConfigError, InputError


def load(name, root, *, download=False, **args):
    return DATASETS[name](DataRequest(name, root, download, args))


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def idx_root(tmp_path):
    """Four training and two test images in torchvision's MNIST and FashionMNIST layout; the last pixel is the label."""
    for kind in ("MNIST", "FashionMNIST"):
        raw = tmp_path / kind / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 4), ("t10k", 2)):
            images = np.full((count, 28, 28), 255)
            images[:, 0, 0] = 0
            images[:, -1, -1] = np.arange(count)
            write_idx(raw / f"{part}-images-idx3-ubyte", images)
            write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count))
    return tmp_path


@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)])
def test_idx_files(idx_root, name, mean, std):
    data = load(name, idx_root)
    assert (len(data.train), len(data.test), data.classes, data.input_shape) == (4, 2, 10, (1, 28, 28))
    x, y = data.train[3]
    assert y == 3
    assert x[0, 0, :2].tolist() == pytest.approx([-mean / std, (1 - mean) / std], rel=1e-6)


class FakeCifar:
    """torchvision refuses CIFAR files without the published checksum, so its reader is replaced."""

    def __init__(self, _, *, train, **__):
        self.data = np.zeros((2, 32, 32, 3), dtype=np.uint8)
        self.data[:, 0, 1, 2] = 255
        self.targets = [1, 9] if train else [5, 3]


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_channels_come_first_and_are_normalised(tmp_path, monkeypatch, name, classes):
    monkeypatch.setattr(datasets, name.upper(), FakeCifar)
    data = load(name, tmp_path, mean=[0.5, 0.25, 0.0], std=[0.5, 1, 2])
    assert (data.classes, data.input_shape) == (classes, (3, 32, 32))
    assert data.test.y.tolist() == [5, 3]
    assert data.train[0][0][:, 0, 1].tolist() == [-1.0, -0.25, 0.5]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_chosen_classes_are_relabelled_in_their_order(idx_root, name):
    data = load(name, idx_root, classes=[3, 0, 1], mean=[0], std=[1])
    assert (data.classes, data.input_shape) == (3, (1, 28, 28))
    assert (data.train.y.tolist(), data.test.y.tolist()) == ([1, 2, 0], [1, 2])
    assert (data.train.x[:, 0, -1, -1] * 255).round().tolist() == [0, 1, 3]
    assert (data.test.x[:, 0, -1, -1] * 255).round().tolist() == [0, 1]


def test_the_statistics_stay_those_of_all_classes(idx_root):
    few, whole = load("mnist", idx_root, classes=[2, 3]), load("mnist", idx_root)
    assert torch.equal(few.train.x, whole.train.x[2:])
    assert len(few.test) == 0  # `splits.load` refuses that


@pytest.mark.parametrize(("name", "classes"), [("cifar10", [9, 1, 5]), ("cifar100", [9, 99, 1, 5])])
def test_chosen_classes_of_cifar(tmp_path, monkeypatch, name, classes):
    monkeypatch.setattr(datasets, name.upper(), FakeCifar)
    data = load(name, tmp_path, classes=classes)
    assert data.classes == len(classes)
    assert data.train.y.tolist() == [classes.index(1), classes.index(9)]
    assert data.test.y.tolist() == [classes.index(5)]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize(
    "classes", [[0, 100], [-1, 0], [3, 3], [0, 8, 0], [3], [], 3, "08", {0: 1}, [0, "8"], [0, True]]
)
def test_bad_classes(tmp_path, name, classes):
    """Told before any file is looked for."""
    last = 99 if name == "cifar100" else 9
    with pytest.raises(ConfigError) as caught:
        load(name, tmp_path / "absent", classes=classes)
    asked = f"data.args.classes must be a list of two or more different labels from 0 to {last}"
    assert str(caught.value) == f"{asked}, got {classes!r}"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_absent(tmp_path, name):
    with pytest.raises(InputError, match=r"not found.* under .*; set data\.root, INFPRUNE_DATA or data\.download=true"):
        load(name, tmp_path)


@pytest.mark.parametrize("damage", [lambda d: d[:100], lambda _: b"", lambda d: b"\xff" * len(d)])
def test_corrupt(idx_root, damage):
    path = idx_root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"MNIST under .* is corrupt") as caught:
        load("mnist", idx_root)
    assert "\n" not in str(caught.value)


def test_failed_download(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no network\nhere")

    monkeypatch.setattr(datasets, "MNIST", refuse)
    with pytest.raises(InputError, match=r"MNIST could not be downloaded to .*no network here"):
        load("mnist", tmp_path, download=True)


@pytest.mark.parametrize(
    "args", [{"mean": [0.1, 0.2]}, {"mean": 0.1}, {"std": [0]}, {"std": ["a"]}, {"std": None}, {"mean": "0"}]
)
def test_bad_statistics(idx_root, args):
    name = next(iter(args))
    with pytest.raises(ConfigError, match=rf"data\.args\.{name} must be a list of 1 .*numbers, one per channel"):
        load("mnist", idx_root, **args)


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_DATA" not in os.environ, reason="needs INFPRUNE_DATA")
def test_full_mnist():
    data = load("mnist", Path(os.environ["INFPRUNE_DATA"]))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert torch.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train.x.mean().item() == pytest.approx(0, abs=1e-3)
    assert data.train.x.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_DATA" not in os.environ, reason="needs INFPRUNE_DATA")
def test_two_classes_of_full_mnist():
    data = load("mnist", Path(os.environ["INFPRUNE_DATA"]), classes=[8, 0])
    assert torch.bincount(data.train.y).tolist() == [5851, 5923]
    assert torch.bincount(data.test.y).tolist() == [974, 980]
