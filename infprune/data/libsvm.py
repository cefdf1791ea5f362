"""Vectors in the LIBSVM text format: one `label index:value ...` line per sample."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from infprune.data.dataset import ArrayDataset, DataRequest, Source
from infprune.errors import ConfigError, InputError
from infprune.imports import one_line

LIMIT = 4 * 2**30  # bytes of dense features


def libsvm(request: DataRequest) -> Source:
    """Return dense x (N, I) and the labels of the training file in ascending order as 0, 1, ...

    ``args.train`` and ``args.test`` name the two files, relative to the data folder.

    Raises:
        ConfigError: a file name is missing.
        InputError: a file is missing, corrupt, or its test labels are not among the training labels.
    """
    options = request.options(train=None, test=None)
    for name, value in options.items():
        if not isinstance(value, str):
            raise ConfigError(f"data.args.{name} must name a LIBSVM file under the data folder, got {value!r}")
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
        for x, y in ((_dense(x_train), y_train), (_dense(x_test), y_test))
    )
    return Source(train, test, len(values), train.input_shape)


def _read(paths: list[Path]) -> tuple[Any, ...]:
    """Return x and y of both files, x sparse and equally wide."""
    from sklearn.datasets import load_svmlight_files  # noqa: PLC0415 - two seconds that other datasets need not pay

    for path in paths:
        if not path.is_file():
            raise InputError(f"LIBSVM file {path} not found; correct data.root or data.args")
    try:
        return tuple(load_svmlight_files(paths, dtype=np.float32))
    except Exception as error:  # the parser raises ValueError, IndexError or OverflowError by the kind of damage
        names = " or ".join(map(str, paths))
        raise InputError(f"{names} is not in the LIBSVM format ({one_line(error)}); correct that file") from error


def _dense(x: Any) -> Any:
    size = x.shape[0] * x.shape[1] * 4
    if size > LIMIT:
        raise InputError(f"{x.shape[0]} x {x.shape[1]} dense features need {size / 2**30:.0f} GiB; reduce the features")
    return x.toarray()
