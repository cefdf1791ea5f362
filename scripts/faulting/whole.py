"""Whether a file is whole: it opens, and says what files of its kind say."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from infprune import config
from infprune.artifacts import KEY, read_manifest, read_scores
from infprune.attribution.scores_file import read_sample_scores
from infprune.models.checkpoint import read_pickle


def torn(folder: Path) -> list[str]:
    """The files of a folder that are not whole, and why; temporary ones are none of them."""
    faults = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".tmp":
            try:
                OPEN[path.suffix](path)
            except Exception as error:  # noqa: BLE001 - a torn file raises anything
                faults.append(f"{path.name}: {type(error).__name__}: {str(error)[:200]}")
    return faults


def left(folder: Path) -> int:
    """Number of temporary files."""
    return len(list(folder.rglob("*.tmp")))


def _safetensors(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get(KEY)
    if said is None:  # tensors and nothing else: weights on the way
        load_file(path)
        return
    READ.get(json.loads(said)["kind"], read_manifest)(path)


def _png(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _markdown(path: Path) -> None:
    if not path.read_text(encoding="utf-8").endswith("\n"):
        raise ValueError("no line break at the end")


def _table(path: Path) -> None:
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    if len({len(row) for row in rows}) != 1:
        raise ValueError("rows of different lengths")


def _page(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith(("</html>", "</svg>")):
        raise ValueError("no end")


READ: dict[str, Callable[[Path], object]] = {"scores": read_scores, "sample-scores": read_sample_scores}
OPEN: dict[str, Callable[[Path], object]] = {
    ".safetensors": _safetensors,
    ".ckpt": read_pickle,
    ".pt2": torch.export.load,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".yaml": lambda path: config.load(str(path)),
    ".png": _png,
    ".md": _markdown,
    ".html": _page,
    ".csv": _table,
    ".svg": _page,
}
