"""What `infprune report` returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Literal

from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.results import Provenance


@dataclass(frozen=True)
class ReportRow:
    """One criterion at one rate: mean and standard deviation over seeds (sample deviation; 0 for one seed)."""

    criterion: str
    rate: float
    rate_achieved: float
    macs: float
    seeds: int
    cut: tuple[float, float]
    compensated: tuple[float, float] | None
    finetuned: tuple[float, float] | None
    distilled: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReportResult:
    """Result of `infprune report`; `macs` in the rows is the share kept."""

    model: str
    data: str
    dense: float
    scope: str
    compensate: str
    calibration: int
    rows: list[ReportRow]
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    provenance: Provenance | None = None
    schema_version: Version = SCHEMA
    command: Literal["report"] = "report"
