"""What scoring training samples takes and gives: inputs, a method, and one score per sample."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from infprune.curvature.objective import Objective
from infprune.data.augment import none
from infprune.data.dataset import Part, Samples
from infprune.data.loaders import Batches
from infprune.errors import InputError
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

    `per_class`: one influence score per class of the queries beside their sum. `seeds`, `epochs`: short trainings of
    el2n and grand, and epochs at which they look; `seeds`: also the trainings of forgetting, and
    the divisions into `folds` of out-of-fold. `subsets`, `share`: random
    subsets of memorisation, and the share of the samples in each. `layer`: whose outputs are the embedding of
    prototypes (None: what the last linear layer reads). `clusters`: prototypes, per class if `balanced`, else in all.
    `projection`: random directions of self-influence; None: exact. `memory`: bytes of per-sample gradients at a time.
    """

    per_class: bool = False
    seeds: int = 3
    epochs: int = 2
    subsets: int = 20
    share: float = 0.7
    folds: int = 5
    layer: str | None = None
    clusters: int = 1
    balanced: bool = True
    projection: int | None = None
    memory: int = 2**28


@dataclass(frozen=True)
class Learning:
    """How the network is trained anew: `fresh(seed)` has initial weights, on the device; `validation` judges epochs."""

    fresh: Callable[[int], nn.Module]
    recipe: Recipe
    validation: Batches
    augment: Callable[..., Inputs] = none


@dataclass(frozen=True)
class Curved:
    """The loss at the trained weights: `train` has the samples to score in their order, `queries` those whose mean loss
    `influence` is about; `quadratic` holds the curvature, damped, with a solver.
    """  # noqa: D205

    train: Objective
    queries: Objective
    quadratic: Quadratic


@dataclass(frozen=True)
class ScoringInputs:
    """What a method may use.

    `train`: the samples to score, `labels` (N,) theirs, `batches(samples)` in order on the device. `module`: the
    trained network in eval mode, None where the method needs none; so `curved`.
    """

    train: Part
    labels: Tensor
    classes: int
    batches: Callable[[Samples], Batches]
    learning: Learning
    options: Options = Options()
    seed: int = 0
    module: nn.Module | None = None
    curved: Curved | None = None
    keep: Keep = field(default_factory=Forgets)
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Measured:
    """What a method computes: see `SampleScores`."""

    scores: Tensor
    groups: tuple[str, ...] = ()
    details: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Need(StrEnum):
    """What a method looks at besides the samples."""

    NOTHING = "nothing"
    TRAINING = "training"  # trains networks of its own
    WEIGHTS = "weights"  # the trained network
    CURVATURE = "curvature"  # and the curvature of its loss


Parts = Mapping[str, Callable[[], str]]
"""Trainings that do not depend on each other, by key: what each returns is kept as text."""


def no_parts(_: ScoringInputs) -> Parts:
    """Nothing is trained."""
    return {}


@dataclass(frozen=True)
class Method:
    """A way to score; see `SampleScores` for `unit` and `meaning`.

    `parts`: the trainings whose results `compute` asks `inputs.keep` for; those that are there it does not repeat.
    """

    compute: Callable[[ScoringInputs], Measured]
    unit: str
    meaning: str
    need: Need
    parts: Callable[[ScoringInputs], Parts] = no_parts


def finished(inputs: ScoringInputs, parts: Parts) -> Iterator[str]:
    """The results of all parts in order; what was not kept is done now, and kept."""
    with inputs.progress.bar("trainings", len(parts)) as bar:
        for key, make in parts.items():
            kept = inputs.keep.get(key)
            if kept is None:
                kept = make()
                inputs.keep.put(key, kept)
            bar.advance(key)
            yield kept


def scored(name: str, method: Method, inputs: ScoringInputs, data_sha256: str) -> SampleScores:
    """Score the samples of `inputs.train`.

    Raises:
        InputError: a score is not finite.
        InfpruneError: as the method says.
    """
    found = method.compute(inputs)
    if not bool(torch.isfinite(found.scores).all()):
        raise InputError(f"{name}: a score is not finite; check weights and data for NaN")
    return SampleScores(
        method=name,
        unit=method.unit,
        meaning=method.meaning,
        indices=inputs.train.indices,
        scores=found.scores.double().cpu(),
        labels=inputs.labels,
        data_sha256=data_sha256,
        groups=found.groups,
        details=found.details,
        facts=found.facts,
    )
