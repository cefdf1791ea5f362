import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from infprune.data import DATASETS
from infprune.data.dataset import DataRequest, gather
from infprune.data.image_folder import IMAGENET_MEAN, IMAGENET_STD, FolderDataset
from infprune.data.pixels import PixelDataset
from infprune.errors import ConfigError, InputError


def write(root, part, label, number, size=(6, 4)):
    folder = root / part / label
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(number).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.png")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def load(root, **args):
    return DATASETS["image_folder"](DataRequest("image_folder", root, False, args))


@pytest.fixture
def root(tmp_path):
    for part in ("train", "test"):
        for number in range(6):
            write(tmp_path, part, f"class{number % 2}", number)
    return tmp_path


@pytest.mark.parametrize(("cache", "kind"), [(True, PixelDataset), (False, FolderDataset)])
def test_pixels_and_labels(root, cache, kind):
    data = load(root, cache=cache)
    assert type(data.train) is type(data.test) is kind
    assert (data.classes, data.input_shape, len(data.train)) == (2, (3, 4, 6), 6)
    x, y = data.train[4]  # class1 holds the images 1, 3, 5
    raw = write(root, "train", "class1", 3).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert (x.dtype, y) == (torch.float32, 1)
    assert torch.allclose(x.double(), (raw - mean) / std, atol=1e-6)


def test_cache_equals_decoding_on_demand(root):
    args = {"size": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 1]}
    cached, lazy = load(root, **args), load(root, cache=False, **args)
    assert cached.input_shape == (3, 3, 3)
    for one, other in zip(gather(cached.test, range(6)), gather(lazy.test, range(6)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(cached.test[2][0], gather(cached.test, [2])[0][0])
    assert cached.test.y.tolist() == lazy.test.y.tolist() == [0, 0, 0, 1, 1, 1]


def test_large_parts_are_not_cached(root, monkeypatch):
    monkeypatch.setattr(sys.modules[FolderDataset.__module__], "CACHE_LIMIT", 6 * 3 * 4 * 6 - 1)
    assert isinstance(load(root).train, FolderDataset)


def test_lazy_dataset_travels_to_worker_processes(root):
    lazy = load(root, cache=False, size=2).train
    travelled = pickle.loads(pickle.dumps(lazy))  # noqa: S301 - made on this line
    assert torch.equal(travelled[1][0], lazy[1][0])


def test_val_stands_in_for_test(root):
    (root / "test").rename(root / "val")
    assert len(load(root).test) == 6


@pytest.mark.parametrize("cache", [True, False])
def test_one_size_is_needed_unless_resized(root, cache):
    write(root, "train", "class1", 9, size=(9, 5))
    with pytest.raises(InputError, match=r"9\.png is 9x5, expected 6x4; set data\.args\.size"):
        gather(load(root, cache=cache).train, range(7))
    assert gather(load(root, cache=cache, size=4).train, [6])[0].shape == (1, 3, 4, 4)


def test_resize_then_centre_crop(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        image = Image.new("RGB", (24, 8), "black")
        image.paste("white", (8, 0, 16, 8))  # the middle third is what a square crop keeps
        image.save(tmp_path / part / "a" / "0.png")
    pixels = load(tmp_path, size=4).train.pixels
    assert pixels.shape == (1, 3, 4, 4)
    assert pixels[..., 1:3].min() == 255


@pytest.mark.parametrize("content", [b"", b"text", b"half"])
def test_unreadable_image(root, content):
    path = root / "train" / "class0" / "2.png"
    path.write_bytes(path.read_bytes()[:60] if content == b"half" else content)
    with pytest.raises(InputError, match=r"image .*2\.png is unreadable .*; replace or remove it") as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_missing_folders(tmp_path, root):
    with pytest.raises(InputError, match=r"no class folders with images in .*train"):
        load(root / "train")
    (root / "train" / "empty").mkdir()
    with pytest.raises(InputError, match=r"no class folders with images in .*empty"):
        load(root)


def test_classes_must_agree(root):
    write(root, "test", "class7", 0)
    with pytest.raises(InputError, match="class folder 'class7' is in only one of train and test"):
        load(root)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"size": 0}, "size must be a positive number"),
        ({"size": "8"}, "size must be a positive number"),
        ({"size": True}, "size must be a positive number"),
        ({"cache": "yes"}, "cache must be true or false"),
        ({"std": [1, 1, -1]}, "std must be a list of 3 positive numbers"),
        ({"crop": 3}, "unknown names .*crop"),
    ],
)
def test_bad_arguments(root, args, match):
    with pytest.raises(ConfigError, match=match):
        load(root, **args)
