"""Load a dataset, check it, and hold a validation part out of its training part."""

import difflib
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from infprune.data import DATASETS
from infprune.data.dataset import ArrayDataset, DataRequest, Part, Samples, Source, Splits, labels
from infprune.data.guarded import Guarded, check, check_labels, read
from infprune.data.holdout import holdout
from infprune.data.image_folder import FolderDataset
from infprune.data.pixels import PixelDataset
from infprune.data.subset_file import check_subset, read_subset, within
from infprune.errors import ConfigError, InputError
from infprune.forward import each
from infprune.imports import call, resolve

PROBE = 256  # samples checked where reading all would decode the whole dataset
CHUNK = 4096


def load(
    name: str | None,
    factory: str | None,
    root: Path | None,
    *,
    download: bool,
    args: Mapping[str, Any],
    validation: float,
    seed: int,
    subset: Path | None = None,
) -> Splits:
    """Return the checked parts of the dataset ``name`` in ``DATASETS`` or of ``factory`` (``pkg.mod:function``).

    A factory is called with ``args`` alone and returns a ``Source``. ``validation`` is the share of the training part
    to hold out, stratified where the labels can be read without the inputs. A `subset` file thins what is left for
    training; the validation part is the same with and without one.

    Raises:
        ConfigError: no such name or function, arguments that do not fit, or a share outside (0, 1).
        InputError: the data is missing, unreadable, empty, or has invalid labels or values; the subset file is damaged
            or of another data set.
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
    whole, test = _guarded("train", source.train, source), _guarded("test", source.test, source)
    train, holdout_part = Part(whole, kept), Part(whole, held)
    if subset is not None:
        chosen = read_subset(subset)
        check_subset(chosen, whole, subset)
        train = within(train, chosen, subset)
    return Splits(train, holdout_part, test, source.classes, source.input_shape, source.features, source.backdoor)


def _guarded(part: str, dataset: Samples, source: Source) -> Samples:
    """Check what was not looked at yet when it is read; our own datasets hold no surprises."""
    own = isinstance(dataset, ArrayDataset | PixelDataset | FolderDataset)
    return dataset if own else Guarded(part, dataset, source)


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
    all_labels = labels(dataset)
    if all_labels is not None:
        check_labels(part, all_labels, source.classes, range(len(all_labels)))
    if not isinstance(dataset, ArrayDataset):
        probe = range(min(PROBE, len(dataset)))
        check(part, *read(part, dataset, probe), source, probe)
        return
    for start in range(0, len(dataset), CHUNK):
        some = range(start, min(start + CHUNK, len(dataset)))
        check(part, each(itemgetter(slice(start, some.stop)), dataset.x), dataset.y[start : some.stop], source, some)


def _check_features(source: Source) -> None:
    names = source.features
    if names is not None and (not isinstance(names, tuple) or (len(names),) != source.input_shape):
        got = f"{len(names)} names" if isinstance(names, tuple) else type(names).__name__
        raise InputError(
            f"features must be a tuple of one name per column of samples {source.input_shape}, got {got}; "
            "correct the factory's features or leave them None"
        )
