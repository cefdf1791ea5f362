"""What `infprune trace` returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Literal

from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.pictures import Picture


@dataclass(frozen=True)
class StageRow:
    """One training stage.

    `labels`: of the data, in the order of the outputs. `trained`: parameters that the stage moved, of `parameters`.
    `loss`: mean over its training samples, without weight decay; `accuracy`: on its test part. `gradient_norm`: of what
    the stage minimised (weight decay included) in what it moved; the theory takes it for zero. `checkpoint`: the
    weights.
    """

    stage: Literal["pretrain", "finetune"]
    data: str
    labels: list[int]
    samples: int
    parameters: int
    trained: int
    loss: float
    accuracy: float
    gradient_norm: float
    checkpoint: str


@dataclass(frozen=True)
class SolveRow:
    """A solve of the sweep: with which curvature, and how it went.

    `damping`: on the squared Hessian with normal-cg and lsmr, on the Hessian with others. `residual`: |H x - b| / |b|,
    which a damping keeps from zero; of lsmr the normal one. `message`: why it did not converge, or null.
    """

    stage: Literal["pretrain", "finetune"]
    solver: str
    damping: float
    samples: int
    parameters: int
    iterations: int
    residual: float
    outcome: str
    message: str | None


@dataclass(frozen=True)
class TraceRow:
    """One pretraining example.

    `rank`: from 1 for the largest influence. `sample`: its place in the data's training part, before anything is held
    out or left out of it. `influence`: Eq. 9 of MS, the derivative of the summed loss of the traced predictions in the
    weight of the example; positive: the example makes that loss larger. `removal`: predicted change of their mean loss
    without it, in nats. `identity`: the influence with every inverse Hessian replaced by the identity.
    """

    rank: int
    sample: int
    label: int
    influence: float
    removal: float
    identity: float


@dataclass(frozen=True)
class TestRow:
    """The traced predictions.

    `sample`: for a single one, its place in the data's test part, else null, as are its label and the predicted one.
    """

    samples: int
    loss: float
    sample: int | None = None
    label: int | None = None
    predicted: int | None = None


@dataclass(frozen=True)
class TraceResult:
    """Result of `infprune trace`.

    `case` 1: fine-tuning held every shared layer; 2: it moved all; 0: some. `rows`: the `top` examples at either end,
    by rank; the CSV file holds all. `mean_abs`: mean |influence| over all `examples`. `identity_r`: Pearson's r of the
    influence with that of the identity control, null where undefined.
    """

    model: str
    case: int
    head: list[str]
    frozen: list[str]
    alpha: float
    stages: list[StageRow]
    solves: list[SolveRow]
    test: TestRow
    examples: int
    mean_abs: float
    identity_r: float | None
    rows: list[TraceRow]
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["trace"] = "trace"


@dataclass(frozen=True)
class Traced:
    """The result, every example by rank, and pictures of the rows and of a single traced prediction by sample."""

    result: TraceResult
    everything: list[TraceRow]
    pictures: dict[int, Picture]
    predicted: Picture | None
