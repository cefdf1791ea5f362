"""What several commands return, and the small ones: frozen values whose fields are the keys of the `--json` output."""

from dataclasses import dataclass, field
from typing import Any, Literal

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
class Gate:
    """A quality gate: `value` was measured, `limit` asked for; `message` tells both."""

    name: str
    limit: float
    value: float
    passed: bool
    message: str


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
