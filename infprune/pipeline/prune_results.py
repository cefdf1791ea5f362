"""What `infprune prune`, a dry run of it too returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass, field
from typing import Literal

from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.results import Accuracy, Change, Gate, JointTrace, LayerRow, Provenance


@dataclass(frozen=True)
class Verified:
    """The proof of the surgery, the layers that it froze, and the norms whose statistics lost channels."""

    max_relative_error: float
    groups_frozen: list[str]
    inexact: list[str]


@dataclass(frozen=True)
class Goal:
    """A budget, by the name of its setting: asked as configured, achieved in the same unit."""

    name: str
    asked: float
    achieved: float
    met: bool


@dataclass(frozen=True)
class Probe:
    """One rate of a search: the loss predicted from single layers; loss and accuracy on validation samples.

    Losses are mean squared changes of the logits: `measured` after compensation, which is what is predicted,
    `distilled` after distillation, None without one. `accuracy` is the last stage's.
    """

    rate: float
    predicted: float | None
    measured: float
    accuracy: float
    distilled: float | None = None


@dataclass(frozen=True)
class Search:
    """The rate found, the dense validation accuracy, what was tried, and Pearson's r of the losses."""

    rate: float
    dense: float
    probes: list[Probe]
    correlation: float | None


@dataclass(frozen=True)
class PruneResult:
    """Result of `infprune prune`; `unit`: of the scores."""

    model: str
    data: str
    criterion: str
    scope: str
    compensate: str
    rate: float | None
    rate_achieved: float
    channels: Change
    params: Change
    macs: Change
    bytes: Change
    latency_ms: Change
    accuracy: Accuracy
    verified: Verified
    layers: list[LayerRow]
    missed: list[str]
    seconds: dict[str, float]
    artifact: str
    run_dir: str
    search: Search | None = None
    joint: JointTrace | None = None
    unit: str = ""
    goals: list[Goal] = field(default_factory=list)
    provenance: Provenance | None = None
    files: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    dry_run: Literal[False] = False
    schema_version: Version = SCHEMA
    command: Literal["prune"] = "prune"


@dataclass(frozen=True)
class PlanResult:
    """Result of `infprune prune --dry-run`: what would stay and cost; nothing was compensated, trained or written.

    `latency_ms` is measured on the cut network. `predicted`: sum of what the layers lose alone (mean squared change of
    the logits, before compensation), or null where the scope measures no curves.
    """

    model: str
    data: str
    criterion: str
    scope: str
    rate: float | None
    rate_achieved: float
    channels: Change
    params: Change
    macs: Change
    bytes: Change
    latency_ms: Change
    predicted: float | None
    verified: Verified
    layers: list[LayerRow]
    gates: list[Gate]
    missed: list[str]
    seconds: dict[str, float]
    search: Search | None = None
    dry_run: Literal[True] = True
    schema_version: Version = SCHEMA
    command: Literal["prune"] = "prune"
