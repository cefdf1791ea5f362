"""What `infprune unlearn` returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Literal

from infprune.pipeline.contract import SCHEMA, Version


@dataclass(frozen=True)
class Quality:
    """How well a network has forgotten, and what it still knows; null where the question does not arise.

    `accuracy`: of the whole split. `kept`: of its samples that nothing was to be forgotten of: the other classes, or
    all of it. `forgotten`: of the forgotten class in the split, or of the forgotten training samples themselves.
    `relabelled`: share of the split's images with the trigger that are recognised as what they are. `attack`: share of
    them that get the attacker's label; those that have it rightly are counted too, as published; `attack_elsewhere`:
    without these. `membership`: AUC of telling forgotten training samples from such that were never seen by their loss;
    .5 is ignorance.
    """

    accuracy: float
    kept: float
    forgotten: float | None
    relabelled: float | None
    attack: float | None
    attack_elsewhere: float | None
    membership: float


@dataclass(frozen=True)
class Trial:
    """One step length of one application, on the validation split; the highest `score` was `chosen`, if any.

    `score`: kept accuracy less that of the forgotten class; of a backdoor, minus the loss at the right labels, half of
    it without and half with the trigger; of samples, kept accuracy less twice |membership - .5|.
    """

    application: int
    length: float
    quality: Quality
    score: float
    chosen: bool


@dataclass(frozen=True)
class Application:
    """One change: how its direction was solved for, the length chosen (0: none was better than staying), |change|."""

    outcome: str
    iterations: int
    residual: float
    message: str
    length: float
    norm: float


@dataclass(frozen=True)
class SelectedRow:
    """Filters of a layer that may change."""

    name: str
    filters: int
    width: int


@dataclass(frozen=True)
class Retrained:
    """The network trained anew without what is forgotten (or with the right labels), on the test split.

    `distance`: |theta - theta_retrained| / |theta_before - theta_retrained|; weights of separate trainings are far
    apart however alike they are, so look at `agreement` (equal predictions) and `kl` (nats) too, of the unlearned
    network with it. `time_ratio`: seconds of unlearning over seconds of retraining; None where an
    earlier process did a part of either.
    """

    quality: Quality
    distance: float
    agreement: float
    kl: float
    seconds: float
    time_ratio: float | None


@dataclass(frozen=True)
class UnlearnResult:
    """Result of `infprune unlearn`; qualities are of the test split, trials of the validation split.

    `samples`: training samples to forget, that stay, and of the Hessian. `validation`: the quality before, there.
    `unseen`: forgotten samples of a subset file that are in the validation split, and so were not learned from.
    """

    model: str
    data: str
    forget: str
    method: str
    selection: str | None
    ratio: float
    solver: str
    damping: float
    parameters: int
    parameters_changed: int
    samples: dict[str, int]
    unseen: int
    before: Quality
    after: Quality
    finetuned: Quality | None
    retrained: Retrained | None
    validation: Quality
    applications: list[Application]
    trials: list[Trial]
    layers: list[SelectedRow]
    seconds: dict[str, float]
    artifact: str
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["unlearn"] = "unlearn"
