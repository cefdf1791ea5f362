"""Load a dataset, check it, and hold a validation part out of its training part."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infprune.data import DATASETS
from infprune.data.dataset import ArrayDataset, DataRequest, Part, Samples, Source, Splits, gather, labels
from infprune.data.holdout import holdout
from infprune.errors import ConfigError, InputError
from infprune.forward import Inputs, shape, tensors
from infprune.imports import call, one_line, resolve

PROBE = 256  # samples checked where reading all would decode the whole dataset
CHUNK = 4096
DTYPES = (torch.float32, torch.int64)


def load(
    name: str | None,
    factory: str | None,
    root: Path | None,
    *,
    download: bool,
    args: Mapping[str, Any],
    validation: float,
    seed: int,
) -> Splits:
    """Return the checked parts of the dataset ``name`` in ``DATASETS`` or of ``factory`` (``pkg.mod:function``).

    A factory is called with ``args`` alone and returns a ``Source``. ``validation`` is the share of the training part
    to hold out, stratified where the labels can be read without the inputs.

    Raises:
        ConfigError: no such name or function, arguments that do not fit, or a share outside (0, 1).
        InputError: the data is missing, unreadable, empty, or has invalid labels or values.
    """
    if not 0 < validation < 1:
        raise ConfigError(f"data.validation must lie between 0 and 1, both excluded, got {validation}")
    source = _source(name, factory, root, download=download, args=args)
    _check("train", source.train, source)
    _check("test", source.test, source)
    _check_features(source)
    if len(source.train) < 2:
        raise InputError("the train part has 1 sample, expected 2 or more to hold one out; give more data")
    y = labels(source.train)
    kept, held = holdout(torch.zeros(len(source.train)) if y is None else y, validation, seed)
    train, holdout_part = Part(source.train, kept), Part(source.train, held)
    return Splits(train, holdout_part, source.test, source.classes, source.input_shape, source.features)


def _source(
    name: str | None, factory: str | None, root: Path | None, *, download: bool, args: Mapping[str, Any]
) -> Source:
    if (name is None) == (factory is None):
        both = "both" if name is not None else "neither"
        raise ConfigError(f"expected data.name or data.factory, got {both}; set one and leave the other null")
    if factory is not None:
        source = call(resolve(factory, "data.factory"), args, name=factory, section="data", error=InputError)
        if not isinstance(source, Source):
            raise InputError(f"{factory} must return an infprune.data.dataset.Source, got {type(source).__name__}")
        return source
    assert name is not None
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(DATASETS)}, or set data.factory"
        raise ConfigError(f"unknown data.name {name!r}; {hint}")
    return DATASETS[name](DataRequest(name, root, download, args))


def _check(part: str, dataset: Samples, source: Source) -> None:
    if len(dataset) == 0:
        raise InputError(f"the {part} part is empty, expected at least one sample; correct data.root or the factory")
    if isinstance(dataset, ArrayDataset):
        x, y = dataset.x, dataset.y
    else:
        x, y = _probe(part, dataset)
    all_labels = labels(dataset)
    _check_labels(part, y if all_labels is None else all_labels, source.classes)
    if shape(x) != source.input_shape or any(t.dtype not in DTYPES for t in tensors(x)):
        raise InputError(
            f"{part} samples are {shape(x)} {' and '.join(str(t.dtype) for t in tensors(x))}, expected "
            f"{source.input_shape} torch.float32, or torch.int64 for token ids; "
            "correct the factory's samples or its input_shape"
        )
    for t in tensors(x):
        if t.is_floating_point():
            _check_finite(part, t)


def _check_features(source: Source) -> None:
    names = source.features
    if names is not None and (not isinstance(names, tuple) or (len(names),) != source.input_shape):
        got = f"{len(names)} names" if isinstance(names, tuple) else type(names).__name__
        raise InputError(
            f"features must be a tuple of one name per column of samples {source.input_shape}, got {got}; "
            "correct the factory's features or leave them None"
        )


def _probe(part: str, dataset: Samples) -> tuple[Inputs, Tensor]:
    what = f"{part} samples cannot be read as (x tensor or tuple of tensors, y int)"
    try:
        x, y = gather(dataset, range(min(PROBE, len(dataset))))
    except InputError:
        raise
    except Exception as error:  # whatever a foreign dataset raises, or its samples do not stack
        raise InputError(f"{what}: {one_line(error)}; correct the dataset") from error
    strange = [type(t).__name__ for t in (*tensors(x), y) if not isinstance(t, Tensor)]
    if strange:
        raise InputError(f"{what}: got {strange[0]}; correct the dataset")
    return x, y


def _check_labels(part: str, y: Tensor, classes: int) -> None:
    wrong = ((y < 0) | (y >= classes)).nonzero()
    if y.is_floating_point() or len(wrong):
        index = int(wrong[0, 0]) if len(wrong) else 0
        raise InputError(
            f"{part} sample {index} has label {y[index].item()}, expected an integer in 0..{classes - 1}; "
            "correct the labels or the number of classes"
        )


def _check_finite(part: str, x: Tensor) -> None:
    for start in range(0, len(x), CHUNK):
        bad = (~torch.isfinite(x[start : start + CHUNK]).flatten(1).all(1)).nonzero()
        if len(bad):
            index = start + int(bad[0, 0])
            raise InputError(f"{part} sample {index} holds NaN or inf; remove or repair it")
