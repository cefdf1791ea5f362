"""What the commands of `infprune data` return: frozen, and the contract of their `--json`."""

from dataclasses import dataclass
from typing import Any, Literal

from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.influence_results import CurvatureRow


@dataclass(frozen=True)
class SampleRow:
    """One training sample: `index` in the data set's training part, before a validation part is held out of it."""

    index: int
    label: int
    score: float


@dataclass(frozen=True)
class ClassRow:
    """The scores of one class: how many samples, mean score, and quantiles (0, 25, 50, 75, 100 %)."""

    label: int
    samples: int
    mean: float
    quantiles: list[float]


@dataclass(frozen=True)
class Bins:
    """A histogram: `counts` between neighbouring `edges`."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class DataScoreResult:
    """Result of `infprune data score`: larger scores are more important.

    `unit`, `meaning`: of the scores. `samples`: scored. `groups`: where there are several scores per sample; tables and
    histogram are then of their sum. `facts`: what the method tells of its work. `highest`, `lowest`: the ends, best
    first. `curvature`: for influence and self-influence. `scores`: the file.
    """

    method: str
    unit: str
    meaning: str
    model: str
    data: str
    samples: int
    groups: list[str]
    facts: dict[str, Any]
    classes: list[ClassRow]
    highest: list[SampleRow]
    lowest: list[SampleRow]
    histogram: Bins
    curvature: CurvatureRow | None
    scores: str
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["data_score"] = "data_score"


@dataclass(frozen=True)
class KeptRow:
    """One class: scored samples, and how many of them stay."""

    label: int
    samples: int
    kept: int


@dataclass(frozen=True)
class DataPruneResult:
    """Result of `infprune data prune`; `subset`: the file that `data.subset` takes."""

    method: str
    strategy: str
    balance: str
    asked: float
    samples: int
    kept: int
    threshold: list[float]
    classes: list[KeptRow]
    scores: str
    subset: str
    schema_version: Version = SCHEMA
    command: Literal["data_prune"] = "data_prune"


@dataclass(frozen=True)
class CurveRow:
    """Test accuracy of networks trained on a kept share: mean and sample deviation over seeds (0 for one).

    `difference`: from random at the same share, paired by seed: mean and deviation; null for random itself.
    `wins`: the mean difference is larger than its deviation; null for random, and for one seed.
    """

    strategy: str
    keep: float
    kept: int
    seeds: int
    accuracy: tuple[float, float]
    difference: tuple[float, float] | None
    wins: bool | None


@dataclass(frozen=True)
class DataCurveResult:
    """Result of `infprune data curve`: accuracy against kept share, each strategy against random.

    `whole`: accuracy of all scored samples, mean and deviation over the same seeds.
    """

    model: str
    data: str
    method: str
    balance: str
    samples: int
    whole: tuple[float, float]
    rows: list[CurveRow]
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["data_curve"] = "data_curve"
