"""Tables as files, for spreadsheets and data frames: CSV, and Parquet with the extra `parquet`."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infprune.attribution.contract import SampleScores
from infprune.attribution.scores_file import read_sample_scores
from infprune.errors import ConfigError
from infprune.pipeline.data_inspect_results import InspectResult
from infprune.pipeline.data_results import DataScoreResult

Columns = Mapping[str, Sequence[Any]]
"""Columns of equal length by name: words, integers, floating-point numbers."""


def as_csv(columns: Columns) -> bytes:
    """A line per row under the names; numbers so that they are read back bit by bit."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([repr(value) if isinstance(value, float) else value for value in row])
    return buffer.getvalue().encode()


def as_parquet(columns: Columns) -> bytes:
    """The columns with their types."""
    import pyarrow as pa  # noqa: PLC0415 - an optional extra
    from pyarrow import parquet  # noqa: PLC0415

    buffer = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Columns], bytes]] = {"csv": as_csv, "parquet": as_parquet}


def check_format(name: str | None) -> None:
    """Refuse a format of --table that cannot be written, before there is work for it.

    Raises:
        ConfigError: unknown, or its package is missing.
    """
    if name is not None and name not in FORMATS:
        raise ConfigError(f"--table: expected {' or '.join(FORMATS)}, got {name}")
    if name == "parquet" and find_spec("pyarrow") is None:
        raise ConfigError('--table: parquet needs pyarrow; pip install "infprune[parquet]"')


def written_scores(name: str, result: DataScoreResult) -> bytes:
    """The scores that a result tells the file of, in a format."""
    return FORMATS[name](score_columns(read_sample_scores(Path(result.scores))[0]))


def score_columns(scores: SampleScores) -> Columns:
    """A row per sample: its index, label and score, the parts of the score by group, and what else is known of it."""
    found = {"index": scores.indices, "label": scores.labels, "score": scores.total}
    found |= {f"score of {name}": scores.scores[:, g] for g, name in enumerate(scores.groups)}
    return {name: values.tolist() for name, values in (found | dict(scores.details)).items()}


def inspection_columns(result: InspectResult) -> Columns:
    """A row per sample of each view."""
    rows = [(view, row) for view in result.views for row in view.rows]
    found: dict[str, list[Any]] = {"view": [v.name for v, _ in rows], "method": [v.method for v, _ in rows]}
    for name in ("rank", "index", "label", "predicted", "probability", "loss", "score"):
        found[name] = [getattr(row, name) for _, row in rows]
    return found
