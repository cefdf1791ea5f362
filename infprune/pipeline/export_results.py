"""What `infprune export` returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Any, Literal

from infprune.latency import Quartiles
from infprune.pipeline.contract import SCHEMA, Version


@dataclass(frozen=True)
class Checked:
    """The check of an exported file on random inputs: `batches` are the numbers of samples."""

    max_relative_error: float
    tolerance: float
    batches: list[int]


@dataclass(frozen=True)
class LatencyRow:
    """Milliseconds of one forward pass over `batch` samples, in `n` alternating rounds; `ratio`: pruned / dense.

    `verdict`: faster, slower or same; see `infprune.latency.Comparison`.
    """

    batch: int
    n: int
    device: str
    threads: int
    dense: Quartiles
    pruned: Quartiles
    ratio: Quartiles
    verdict: str


@dataclass(frozen=True)
class ExportResult:
    """Result of `infprune export`; `inputs`: dtype and shape of one sample, for each input; the batch is free."""

    model: str
    source: str | None
    format: str
    artifact: str
    bytes: int
    inputs: list[dict[str, Any]]
    verified: Checked
    latency: list[LatencyRow]
    seconds: dict[str, float]
    schema_version: Version = SCHEMA
    command: Literal["export"] = "export"
