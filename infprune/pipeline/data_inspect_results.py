"""What `data inspect` returns: frozen, and the contract of its `--json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.influence_results import CurvatureRow


@dataclass(frozen=True)
class InspectedSample:
    """A training sample in a view, or a test sample that is asked about.

    `index`: into the data set's training part before a validation part is held out of it (into the test part, for a
    query). `probability`: the network's, of the sample's own label. `loss`: in nats. `score`: what the view ranks by.
    """

    rank: int
    index: int
    label: int
    predicted: int
    probability: float
    loss: float
    score: float


@dataclass(frozen=True)
class View:
    """Some samples, ranked from 1. `name`: helpful, harmful, suspects, memorised or scores; `method`: of the score."""

    name: str
    title: str
    method: str
    unit: str
    meaning: str
    rows: list[InspectedSample]


@dataclass(frozen=True)
class Query:
    """Whose loss helpful and harmful samples are about: `samples` test samples; `sample`: the only one, or null."""

    text: str
    samples: int
    loss: float
    sample: InspectedSample | None


@dataclass(frozen=True)
class InspectResult:
    """Result of `infprune data inspect`; `samples`: of the training split; `query`, `curvature`: null if not asked."""

    model: str
    data: str
    samples: int
    query: Query | None
    curvature: CurvatureRow | None
    views: list[View]
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["data_inspect"] = "data_inspect"


@dataclass(frozen=True)
class Inspection:
    """The result, and the inputs of the samples in it: training inputs by index, the query's sample, feature names.

    `asked`: the words of the command line, but for the configuration.
    """

    result: InspectResult
    inputs: Mapping[int, Tensor]
    query: Tensor | None
    features: tuple[str, ...] | None
    asked: Sequence[str] = ()
