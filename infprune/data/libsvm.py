"""Vectors in the LIBSVM text format: one `label index:value ...` line per sample."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infprune.data.dataset import ArrayDataset, DataRequest, Source
from infprune.errors import ConfigError, InputError
from infprune.files import is_file
from infprune.imports import one_line

LIMIT = 4 * 2**30  # bytes of dense features
TOLERANCE = 1e-3  # of values that files round to six digits


def libsvm(request: DataRequest) -> Source:
    """Return dense x (N, I) and the labels of the training file in ascending order as 0, 1, ...

    ``args.train`` and ``args.test`` name the two files, relative to the data folder. ``args.one_hot`` lists the values
    of categorical features (default None: as they are): feature j becomes the indicators of its V values, the columns
    j V to j V + V - 1. An entry that a sparse line leaves out is 0, and 0 must then be one of the values.

    Raises:
        ConfigError: a file name is missing, or ``one_hot`` is no list of different numbers.
        InputError: a file is missing, corrupt, its test labels are not among the training labels, or a value is not
            among those of ``one_hot``.
    """
    options = request.options(train=None, test=None, one_hot=None)
    for name in ("train", "test"):
        if not isinstance(options[name], str):
            raise ConfigError(f"data.args.{name} must name a LIBSVM file under the data folder, got {options[name]!r}")
    levels = _levels(options["one_hot"])
    folder = request.folder()
    paths = [folder / options["train"], folder / options["test"]]
    x_train, y_train, x_test, y_test = _read(paths)
    values = np.unique(y_train)
    strange = np.setdiff1d(y_test, values)
    if strange.size:
        raise InputError(
            f"{paths[1]}: label {strange[0]:g} does not occur in the training file; use two files of one task"
        )
    train, test = (
        ArrayDataset(torch.from_numpy(x), torch.from_numpy(np.searchsorted(values, y)))
        for x, y in ((_dense(x_train, paths[0], levels), y_train), (_dense(x_test, paths[1], levels), y_test))
    )
    return Source(train, test, len(values), train.input_shape)


def _read(paths: list[Path]) -> tuple[Any, ...]:
    """Return x and y of both files, x sparse and equally wide."""
    from sklearn.datasets import load_svmlight_files  # noqa: PLC0415 - two seconds that other datasets need not pay

    for path in paths:
        if not is_file(path):
            raise InputError(f"LIBSVM file {path} not found; correct data.root or data.args")
    try:
        return tuple(load_svmlight_files(paths, dtype=np.float32))
    except Exception as error:  # the parser raises ValueError, IndexError or OverflowError by the kind of damage
        names = " or ".join(map(str, paths))
        raise InputError(f"{names} is not in the LIBSVM format ({one_line(error)}); correct that file") from error


def _levels(one_hot: Any) -> list[float] | None:
    if one_hot is None:
        return None
    numbers = isinstance(one_hot, list) and all(type(v) in (int, float) and math.isfinite(v) for v in one_hot)
    if not numbers or not 1 < len(set(one_hot)) == len(one_hot):
        raise ConfigError(f"data.args.one_hot must be a list of two or more different numbers, got {one_hot!r}")
    return list(one_hot)


def _dense(x: Any, path: Path, levels: list[float] | None) -> Any:
    """Return float32 (N, I), or (N, I V) indicators of V levels."""
    rows, columns = x.shape[0], x.shape[1] * (1 if levels is None else len(levels))
    size = rows * columns * 4
    if size > LIMIT:
        raise InputError(f"{rows} x {columns} dense features need {size / 2**30:.0f} GiB; reduce the features")
    return x.toarray() if levels is None else _indicators(x.toarray(), path, levels)


def _indicators(x: Any, path: Path, levels: list[float]) -> Any:
    """Map (N, I) to (N, I V): 1 where a value's nearest of the V levels stands, else 0."""
    distances = np.abs(x[:, :, None] - np.asarray(levels, dtype=np.float32))
    strange = np.argwhere(~(distances.min(2) <= TOLERANCE))  # NaN too
    if strange.size:
        row, column = strange[0]
        raise InputError(
            f"{path}: sample {row} has {x[row, column]:g} as feature {column} (both counted from 0), which "
            f"data.args.one_hot {levels} lacks; add it (an entry left out is 0) or correct the file"
        )
    return np.eye(len(levels), dtype=np.float32)[distances.argmin(2)].reshape(len(x), -1)
