"""A dataset of a user's own whose every sample is checked when it is read, the late ones too."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from infprune.data.dataset import Samples, Source, gather, labels
from infprune.errors import InputError, out_of_memory
from infprune.forward import Inputs, each, shape, tensors
from infprune.imports import one_line

DTYPES = (torch.float32, torch.int64)


class Guarded(Dataset[tuple[Inputs, int]]):
    """The samples of `base`, the part named `part` of `source`.

    Raises:
        InputError: when a sample is read: it cannot be, or is not as the source says.
    """

    def __init__(self, part: str, base: Samples, source: Source) -> None:
        self.part, self.base, self.source = part, base, source
        self.y = labels(base)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> tuple[Inputs, int]:
        x, y = self.__getitems__([index])
        return each(lambda t: t[0], x), int(y[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        x, y = read(self.part, self.base, indices)
        check(self.part, x, y, self.source, indices)
        return x, y


def read(part: str, dataset: Samples, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
    """Return samples as one batch.

    Raises:
        InputError: the dataset cannot give them, or as something else than tensors.
    """
    what = f"{part} samples cannot be read as (x tensor or tuple of tensors, y int)"
    try:
        x, y = gather(dataset, indices)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a foreign dataset raises, or its samples do not stack
        if out_of_memory(error):
            raise
        raise InputError(f"{what}: {one_line(error)}; correct the dataset") from error
    strange = [type(t).__name__ for t in (*tensors(x), y) if not isinstance(t, Tensor)]
    if strange:
        raise InputError(f"{what}: got {strange[0]}; correct the dataset")
    return x, y


def check(part: str, x: Inputs, y: Tensor, source: Source, indices: Sequence[int]) -> None:
    """Check a batch, the samples at `indices`.

    Raises:
        InputError: labels that are none of the classes, another shape or number format, NaN or infinity.
    """
    check_labels(part, y, source.classes, indices)
    if shape(x) != source.input_shape or any(t.dtype not in DTYPES for t in tensors(x)):
        raise InputError(
            f"{part} samples are {shape(x)} {' and '.join(str(t.dtype) for t in tensors(x))}, expected "
            f"{source.input_shape} torch.float32, or torch.int64 for token ids; "
            "correct the factory's samples or its input_shape"
        )
    for t in tensors(x):
        if t.is_floating_point():
            _check_finite(part, t, indices)


def check_labels(part: str, y: Tensor, classes: int, indices: Sequence[int]) -> None:
    """Check labels (N,): integers in 0..classes - 1."""
    wrong = ((y < 0) | (y >= classes)).nonzero()
    if y.is_floating_point() or len(wrong):
        at = int(wrong[0, 0]) if len(wrong) else 0
        raise InputError(
            f"{part} sample {indices[at]} has label {y[at].item()}, expected an integer in 0..{classes - 1}; "
            "correct the labels or the number of classes"
        )


def _check_finite(part: str, x: Tensor, indices: Sequence[int]) -> None:
    bad = (~torch.isfinite(x).flatten(1).all(1)).nonzero()
    if len(bad):
        raise InputError(f"{part} sample {indices[int(bad[0, 0])]} holds NaN or inf; remove or repair it")
