"""What scoring training samples takes and gives: inputs, a method, and one score per sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from infprune.curvature.objective import Objective
from infprune.data.dataset import Part, Samples
from infprune.forward import Inputs
from infprune.influence.quadratic import Quadratic
from infprune.progress import Progress, Silent
from infprune.training import Recipe


@dataclass(frozen=True)
class SampleScores:
    """Scores of training samples; LARGER means more important to keep: more helpful, harder, or more memorised.

    `indices` (N,) int64, ascending: into the data set's training part before a validation part is held out of it, as
    in a subset file. `scores` float64 (N,), or (N, G) with one column per query group. `labels` (N,) int64.
    `unit`: of the scores. `meaning`: what a large one says, in a sentence. `groups`: names of the columns, () for (N,).
    `details`: what else the method knows of each sample, (N,) by name. `facts`: numbers and words about the scoring.
    """

    method: str
    unit: str
    meaning: str
    indices: Tensor
    scores: Tensor
    labels: Tensor
    data_sha256: str
    groups: tuple[str, ...] = ()
    details: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """One score per sample, `(N,)`: the sum over groups."""
        return self.scores if self.scores.dim() == 1 else self.scores.sum(1)


class Keep(Protocol):
    """Finished parts of a long scoring, by key (`pipeline.store.Store`)."""

    def get(self, key: str) -> Any:
        """The value, or None."""

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""


class Forgets:
    """Keeps nothing beyond this process."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._found.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._found[key] = value


@dataclass(frozen=True)
class Options:
    """How to score; each method reads what it needs.

    `per_class`: one influence score per class of the queries instead of their sum. `queries`: how many. `seeds`,
    `epochs`: of the short trainings of el2n, grand (mean over both) and of forgetting. `subsets`, `share`: random
    subsets of memorisation, and the share of the samples in each. `layer`: whose inputs are the embedding of
    prototypes (None: the last linear layer). `clusters`: per class, or in all if not `balanced`. `projection`:
    dimensions of the random projection of self-influence's gradients; None: exact. `memory`: bytes of per-sample
    gradients that exist at a time.
    """

    per_class: bool = False
    seeds: int = 3
    epochs: int = 2
    subsets: int = 20
    share: float = 0.7
    layer: str | None = None
    clusters: int = 1
    balanced: bool = True
    projection: int | None = None
    memory: int = 2**28


@dataclass(frozen=True)
class ScoringInputs:
    """What a method may use.

    `train`: the samples to score; `labels` (N,): theirs. `queries`: the samples whose loss `influence` is about.
    `module`: the trained network in eval mode. `fresh(seed)`: the network with initial weights. `recipe`: how to train
    it. `objective`: the training loss at the trained weights, its batches in the order of `train`; `quadratic()`: its
    curvature with a solver, made when first asked for.
    """

    train: Part
    labels: Tensor
    classes: int
    queries: Samples
    validation: Samples
    module: nn.Module
    fresh: Callable[[int], nn.Module]
    recipe: Recipe
    augment: Callable[[Inputs], Inputs]
    objective: Callable[[], Objective]
    quadratic: Callable[[], Quadratic]
    options: Options
    seed: int
    device: torch.device
    data_sha256: str
    batch_size: int
    keep: Keep = field(default_factory=Forgets)
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Measured:
    """What a method computes: see `SampleScores`."""

    scores: Tensor
    groups: tuple[str, ...] = ()
    details: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way to score. `trained`: needs a trained network."""

    compute: Callable[[ScoringInputs], Measured]
    unit: str
    meaning: str
    trained: bool


def scored(name: str, method: Method, inputs: ScoringInputs) -> SampleScores:
    """Score the samples of `inputs.train`.

    Raises:
        InfpruneError: as the method says.
    """
    found = method.compute(inputs)
    return SampleScores(
        method=name,
        unit=method.unit,
        meaning=method.meaning,
        indices=inputs.train.indices,
        scores=found.scores.double().cpu(),
        labels=inputs.labels,
        data_sha256=inputs.data_sha256,
        groups=found.groups,
        details=found.details,
        facts=found.facts,
    )
