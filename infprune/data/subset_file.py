"""Subset files: which training samples of a data set to use, as JSON that names the data set by its digest."""

import hashlib
import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from infprune.data.dataset import Part, Samples, gather
from infprune.data.guarded import Guarded
from infprune.data.image_folder import FolderDataset
from infprune.data.pixels import PixelDataset
from infprune.errors import InputError
from infprune.files import atomic_writes, exists, is_file
from infprune.forward import Inputs, tensors
from infprune.imports import one_line

SCHEMA = 1
CHUNK = 4096  # samples that are hashed at a time


@dataclass(frozen=True)
class Subset:
    """Samples of a data set's training part as it is BEFORE a validation part is held out of it.

    `indices` (K,) int64, ascending, without repetition; `samples`: how many the training part has; `data_sha256`: its
    `fingerprint`; `made`: how the subset came about, as JSON values.
    """

    indices: Tensor
    samples: int
    data_sha256: str
    made: dict[str, Any] = field(default_factory=dict)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: int = SCHEMA
    kind: str = "subset"
    samples: int
    data_sha256: str
    made: dict[str, Any]
    indices: list[int]


def write_subset(path: Path, subset: Subset, beside: dict[Path, str] | None = None) -> None:
    """Write a subset file, atomically, and the files `beside` it."""
    content = _Content(
        samples=subset.samples,
        data_sha256=subset.data_sha256,
        made=subset.made,
        indices=sorted(subset.indices.tolist()),
    )
    atomic_writes({path: content.model_dump_json() + "\n", **(beside or {})})


def read_subset(path: Path) -> Subset:
    """Read a subset file.

    Raises:
        InputError: missing, damaged, of another kind or version, empty, or its indices repeat or lie out of range.
    """
    content = _parsed(path)
    indices, count = content.indices, content.samples
    if not indices:
        raise InputError(f"{path}: the subset is empty, expected at least one sample; write it again")
    outside = [i for i in indices if not 0 <= i < count]
    if outside:
        raise InputError(f"{path}: expected indices in 0..{count - 1}, got {outside[0]}; write it again")
    if any(a >= b for a, b in pairwise(indices)):
        raise InputError(f"{path}: expected ascending indices without repetition; write it again")
    return Subset(torch.tensor(indices, dtype=torch.int64), count, content.data_sha256, content.made)


def check_subset(subset: Subset, train: Samples, path: Path) -> None:
    """Check that a subset is of this training part (whole, before a validation part is held out).

    Raises:
        InputError: it is of another data set.
    """
    if subset.samples != len(train):
        raise InputError(
            f"{path}: this subset is of a data set of {subset.samples} training samples, got one of {len(train)}; "
            "give the data it was made for"
        )
    found = fingerprint(train)
    if subset.data_sha256 != found:
        raise InputError(
            f"{path}: this subset is of another data set (SHA-256 {subset.data_sha256[:12]}, got {found[:12]}); "
            "give the data it was made for, or make it again"
        )


def within(train: Part, subset: Subset, path: Path) -> Part:
    """The samples of a training part, validation held out, that a subset keeps.

    Raises:
        InputError: none are left.
    """
    kept = train.indices[torch.isin(train.indices, subset.indices)]
    if not len(kept):
        raise InputError(f"{path}: all {len(subset.indices)} samples lie in the validation part; use another data.seed")
    return Part(train.base, kept)


def fingerprint(train: Samples) -> str:
    """SHA-256 of a training part: of its labels and inputs in order, as the network sees them.

    Images in memory are hashed as bytes, before normalisation; of image files that are too many for that, the names,
    sizes and labels stand for the content.
    """
    digest = hashlib.sha256(f"{len(train)}".encode())
    if isinstance(train, FolderDataset):
        digest.update(train.y.numpy().tobytes())
        for name in train.files.paths:
            digest.update(f"{'/'.join(Path(name).parts[-2:])}:{Path(name).stat().st_size}\n".encode())
        return digest.hexdigest()
    for start in range(0, len(train), CHUNK):
        x, y = _raw(train, start, min(start + CHUNK, len(train)))
        for t in (*tensors(x), y):
            digest.update(t.contiguous().numpy().tobytes())
    return digest.hexdigest()


def outline(samples: Samples) -> str:
    """The `fingerprint` of a part of the data as far as it is cheap.

    Of a user's own dataset, which may decode or change a sample each time it is read, the number and labels.
    """
    if not isinstance(samples, Guarded):
        return fingerprint(samples)
    y = b"" if samples.y is None else samples.y.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{len(samples)}".encode() + y).hexdigest()


def _raw(train: Samples, start: int, stop: int) -> tuple[Inputs, Tensor]:
    if isinstance(train, PixelDataset):
        return train.pixels[start:stop], train.y[start:stop]
    return gather(train, range(start, stop))


def text_of(path: Path, expected: str = "a subset file that `infprune data prune` wrote") -> str:
    """Read a file of text.

    Raises:
        InputError: missing, no file such as a folder or a device, or no text.
    """
    if not is_file(path):
        found = "not a file" if exists(path) else "no such file"
        raise InputError(f"{path}: {found}; give {expected}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({one_line(error)}); give {expected}") from error


def _parsed(path: Path) -> _Content:
    text = text_of(path)
    try:
        content = json.loads(text)
        kind, version = content.get("kind"), content.get("schema_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a subset file ({one_line(error)}); write it again") from error
    if kind != "subset":
        raise InputError(f"{path}: expected a subset file, got another kind of JSON; give a file of `data prune`")
    if version != SCHEMA:
        raise InputError(f"{path}: expected subset schema {SCHEMA}, got {version!r:.40}; update infprune")
    try:
        return _Content.model_validate(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{path}: the subset file is damaged at {where}; write it again") from error
