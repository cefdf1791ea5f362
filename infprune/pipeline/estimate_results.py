"""What `doctor --estimate` returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Any, Literal

from infprune.pipeline.contract import SCHEMA, Version


@dataclass(frozen=True)
class MemoryRow:
    """Bytes: of weights, of what autograd saves of one batch, of factors, of inverting the widest weight; the peak.

    All of one pass in batches of `data.batch_size`. `budget`: what `--memory`, `score.memory` or the machine allows.
    """

    weights: int
    activations: int
    factors: int
    solving: int
    peak: int
    budget: int


@dataclass(frozen=True)
class PassesRow:
    """How scoring stays within the budget: passes over the data, samples at a time; bytes of factors, and the peak."""

    number: int
    batch_size: int
    factors: int
    peak: int


@dataclass(frozen=True)
class WorkRow:
    """FLOPs of all samples: forward, backward, Gram matrices; of inversions and eliminations; seconds of each.

    FLOPs are those of one pass, seconds of all passes.
    """

    forward: int
    backward: int
    gram: int
    factorising: int
    network_seconds: float
    gram_seconds: float
    factorising_seconds: float


@dataclass(frozen=True)
class EstimateResult:
    """Result of `infprune doctor --estimate`: of scoring, not of what follows. See `infprune.estimate`.

    `widest`: inputs of the widest weight that reads prunable channels, and the bias. `advice`: what to change where the
    peak is above the budget.
    """

    model: str
    inputs: list[dict[str, Any]]
    criterion: str
    samples: int
    batch_size: int
    positions: int | None
    params: int
    macs: int
    channels: int
    widest: int
    memory: MemoryRow
    work: WorkRow
    seconds_expected: float
    advice: list[str]
    passes: PassesRow | None = None
    schema_version: Version = SCHEMA
    command: Literal["doctor"] = "doctor"
