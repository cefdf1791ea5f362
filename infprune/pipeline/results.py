"""What the commands return: frozen values whose fields are the keys of the `--json` output."""

from dataclasses import dataclass, field
from typing import Any, Literal

from infprune.latency import Quartiles
from infprune.pipeline.contract import SCHEMA, Version


@dataclass(frozen=True)
class Change:
    """A quantity of the dense and of the pruned network."""

    before: float
    after: float


STAGES = {
    "dense": "dense",
    "cut": "after the cut",
    "compensated": "compensated",
    "distilled": "distilled",
    "finetuned": "fine-tuned",
}
"""The stages of a network at which accuracy is measured, in order, and what people call them."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy on the test split, as trained and after each of `STAGES` that was run."""

    dense: float
    cut: float | None = None
    compensated: float | None = None
    distilled: float | None = None
    finetuned: float | None = None

    @property
    def final(self) -> float:
        """The accuracy of the network that was written."""
        return list(self.measured.values())[-1]

    @property
    def measured(self) -> dict[str, float]:
        """The stages that were measured, by what people call them, in order."""
        return {called: a for stage, called in STAGES.items() if (a := getattr(self, stage)) is not None}


@dataclass(frozen=True)
class Verified:
    """The proof of the surgery, the layers that it froze, and the norms whose statistics lost channels."""

    max_relative_error: float
    groups_frozen: list[str]
    inexact: list[str]


@dataclass(frozen=True)
class Gate:
    """A quality gate: `value` was measured, `limit` asked for; `message` tells both."""

    name: str
    limit: float
    value: float
    passed: bool
    message: str


@dataclass(frozen=True)
class Goal:
    """A budget, by the name of its setting: asked as configured, achieved in the same unit."""

    name: str
    asked: float
    achieved: float
    met: bool


@dataclass(frozen=True)
class Provenance:
    """What a result was made from; `data`: its configuration, `samples`: of each split. Nothing depends on the clock.

    Digests are SHA-256: of the dense network's tensors, of the scores file that was reused, of the file written.
    """

    versions: dict[str, str]
    seed: int
    device: str
    threads: int
    precision: str
    data: dict[str, Any]
    samples: dict[str, int]
    base_sha256: str
    scores_sha256: str | None = None
    artifact_sha256: str | None = None


@dataclass(frozen=True)
class LayerRow:
    """One channel layer: widths, its share of all MACs, score quantiles (0, 25, 50, 75, 100 %; every 5 %)."""

    name: str
    channels: int
    kept: int
    macs_share: float
    quantiles: list[float]
    frozen: str | None = None
    inexact: str | None = None
    distribution: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ScoreResult:
    """Result of `infprune score`; `kept` in the rows is what the configured budget would keep."""

    criterion: str
    unit: str
    model: str
    rate_achieved: float
    samples: int
    layers: list[LayerRow]
    seconds: dict[str, float]
    scores: str
    schema_version: Version = SCHEMA
    command: Literal["score"] = "score"


@dataclass(frozen=True)
class Probe:
    """One rate of a search: the loss predicted from single layers; loss and accuracy on validation samples.

    Losses are mean squared changes of the logits.
    """

    rate: float
    predicted: float | None
    measured: float
    accuracy: float


@dataclass(frozen=True)
class Search:
    """The rate found, the dense validation accuracy, what was tried, and Pearson's r of the losses."""

    rate: float
    dense: float
    probes: list[Probe]
    correlation: float | None


@dataclass(frozen=True)
class JointTrace:
    """How the cut was learned while fine-tuning.

    `epochs`: of which the first `learning` had masks or penalties. `handover`: largest relative difference of the
    outputs just before and after surgery; null where the method does not prepare it. `masks`: moments of the training,
    see `infprune.joint.inf_cp.Record`.
    """

    method: str
    learning: int
    epochs: list[dict[str, Any]]
    handover: float | None
    masks: list[dict[str, Any]]


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


@dataclass(frozen=True)
class TrainResult:
    """Result of `infprune train` and `infprune finetune`: test accuracy before the first and after the last epoch."""

    command: Literal["train", "finetune"]
    model: str
    data: str
    accuracy: Change
    epochs: list[dict[str, Any]]
    seconds: dict[str, float]
    artifact: str
    joint: JointTrace | None = None
    schema_version: Version = SCHEMA


@dataclass(frozen=True)
class EvaluateResult:
    """Result of `infprune evaluate`."""

    model: str
    data: str
    accuracy: float
    loss: float
    samples: int
    recorded: float | None
    schema_version: Version = SCHEMA
    command: Literal["evaluate"] = "evaluate"


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


@dataclass(frozen=True)
class SliceRow:
    """Where a layer's channels stand in a dimension of a tensor: `positions` entries for each channel.

    `role`: producer, consumer, through or size; see `infprune.coupling.groups.Role`. A size is an integer attribute of
    a module, `module@attribute`, that follows the cut.
    """

    tensor: str
    dim: int
    role: str
    positions: int


@dataclass(frozen=True)
class Diagnosis:
    """One channel layer: the shares of all MACs and parameters that would go with it, and why it is frozen, or null.

    `inexact`: the norm whose statistics run over its channels. `gated`: measured where the channels are made.
    """

    name: str
    channels: int
    macs_share: float
    params_share: float
    frozen: str | None
    inexact: str | None
    gated: bool
    slices: list[SliceRow]


@dataclass(frozen=True)
class Extent:
    """A number of channel layers, and of channels in them."""

    layers: int
    channels: int


@dataclass(frozen=True)
class DoctorResult:
    """Result of `infprune doctor`.

    `weights`: shipped, random, or a file. `params`, `macs`: of the network, and of the one whose prunable layers all
    have the least width. `stopped`: why the trial cuts ended early, or null; `untried` layers, frozen for that reason,
    may be prunable. `peak_bytes`: the most main memory that the process held, torch itself included; 0: unknown.
    """

    model: str
    source: str | None
    weights: str
    inputs: list[dict[str, Any]]
    prunable: Extent
    total: Extent
    params: Change
    macs: Change
    layers: list[Diagnosis]
    untried: int
    stopped: str | None
    seconds: dict[str, float]
    peak_bytes: int
    schema_version: Version = SCHEMA
    command: Literal["doctor"] = "doctor"


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
