"""Images in class folders: ROOT/train/CLASS/*.png and ROOT/test (or val)/CLASS/*.png."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from infprune.data.dataset import DataRequest, Samples, Source
from infprune.data.image_file import decoder
from infprune.data.pixels import Normalisation, PixelDataset, normalisation
from infprune.errors import ConfigError, InputError
from infprune.imports import one_line

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CACHE_LIMIT = 2 * 2**30  # bytes of decoded pixels in one part
DECODERS = 2  # threads, for images of THREADED pixels or more: small ones only make them wait for each other
THREADED = 128 * 128
CHUNK = 256  # images handed to a thread at once


def image_folder(request: DataRequest) -> Source:
    """Return RGB images (3, H, W), normalised with ``args.mean`` and ``args.std`` (default: ImageNet).

    ``args.size`` resizes the shorter side to that many pixels and crops the centre; without it all images must have
    one size. ``args.cache`` (default true) decodes a part once into memory if it fits in 2 GiB.

    Raises:
        ConfigError: unknown or invalid arguments.
        InputError: folders are missing, their classes differ, or an image is unreadable or of another size.
    """
    options = request.options(size=None, mean=IMAGENET_MEAN, std=IMAGENET_STD, cache=True)
    normalise = normalisation(options["mean"], options["std"], 3)
    decode, cache = decoder(options["size"]), options["cache"]
    if not isinstance(cache, bool):
        raise ConfigError(f"data.args.cache must be true or false, got {cache!r}")
    root = request.folder()
    test_name = next((name for name in ("test", "val") if (root / name).is_dir()), "test")
    train, test = _scan(root / "train", decode), _scan(root / test_name, decode)
    if train.classes != test.classes:
        odd = min(set(train.classes) ^ set(test.classes))
        raise InputError(f"{root}: class folder {odd!r} is in only one of train and {test_name}; give both the same")
    first = tuple(_decode(train, 0).shape)
    return Source(
        train=_samples(train, first, normalise, cache=cache),
        test=_samples(test, first, normalise, cache=cache),
        classes=len(train.classes),
        input_shape=first,
    )


@dataclass(frozen=True)
class _Files:
    """The image files of one part, their labels, and the way to decode one to uint8 (3, H, W)."""

    classes: Sequence[str]
    paths: Sequence[str]
    y: Tensor
    decode: Callable[[str], Tensor]


class FolderDataset(Dataset[tuple[Tensor, int]]):
    """Images decoded each time they are read."""

    def __init__(self, files: _Files, shape: tuple[int, ...], normalise: Normalisation) -> None:
        self.files = files
        self.shape = shape
        self.normalise = normalise
        self.y = files.y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.normalise(_decode(self.files, index, self.shape)), int(self.y[index])


def _scan(folder: Path, decode: Callable[[str], Tensor]) -> _Files:
    from torchvision.datasets import ImageFolder  # noqa: PLC0415 - two seconds that digits need not pay

    try:
        found = ImageFolder(folder)
    except OSError as error:
        raise InputError(f"no class folders with images in {folder} ({one_line(error)}); correct data.root") from error
    paths, y = zip(*found.samples, strict=True)
    return _Files(found.classes, paths, torch.tensor(y), decode)


def _samples(files: _Files, shape: tuple[int, ...], normalise: Normalisation, *, cache: bool) -> Samples:
    count = len(files.paths)
    if not cache or count * torch.Size(shape).numel() > CACHE_LIMIT:
        return FolderDataset(files, shape, normalise)
    pixels = torch.empty(count, *shape, dtype=torch.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + CHUNK, count)):
            pixels[index] = _decode(files, index, shape)

    with ThreadPoolExecutor(DECODERS if shape[1] * shape[2] >= THREADED else 1) as pool:
        for _ in pool.map(fill, range(0, count, CHUNK)):
            pass
    return PixelDataset(pixels, files.y, normalise)


def _decode(files: _Files, index: int, shape: tuple[int, ...] | None = None) -> Tensor:
    path = files.paths[index]
    try:
        image = files.decode(path)
    except Exception as error:  # Pillow's decoders raise anything, SyntaxError included
        raise InputError(f"image {path} is unreadable ({one_line(error)}); replace or remove it") from error
    if shape is not None and image.shape != shape:
        raise InputError(f"image {path} is {_size(image.shape)}, expected {_size(shape)}; set data.args.size")
    return image


def _size(shape: Sequence[int]) -> str:
    return f"{shape[2]}x{shape[1]}"
