"""Files that name training samples: subset files, or bare indices."""

from pathlib import Path

import torch
from torch import Tensor

from infprune.data.dataset import Samples
from infprune.data.subset_file import check_subset, read_subset, text_of
from infprune.errors import InputError

FORM = "a subset file, or indices from 0 such as 3, 17, 20"


def named(path: Path, train: Samples) -> Tensor:
    """Indices of a training part, validation not held out, ascending `(K,)`.

    A subset file names its data, which must be these. Bare indices, apart by commas or white space, in brackets or not,
    are believed; repetitions count once.

    Raises:
        InputError: missing, neither of both, empty, out of range, or of another data set.
    """
    text = text_of(path, FORM)
    if text.lstrip().startswith("{"):
        subset = read_subset(path)
        check_subset(subset, train, path)
        return subset.indices
    found = sorted({_index(path, word, len(train)) for word in _words(text)})
    if not found:
        raise InputError(f"{path}: it names no sample; expected {FORM}")
    return torch.tensor(found, dtype=torch.int64)


def _words(text: str) -> list[str]:
    text = text.strip().removeprefix("\ufeff")
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return inner.replace(",", " ").split()


def _index(path: Path, word: str, count: int) -> int:
    if not (word.isascii() and word.removeprefix("-").isdigit()):
        raise InputError(f"{path}: expected {FORM}, got {word[:40]!r}")
    if len(word) > 18 or not 0 <= int(word) < count:
        raise InputError(f"{path}: expected indices in 0..{count - 1}, got {word[:40]}")
    return int(word)
