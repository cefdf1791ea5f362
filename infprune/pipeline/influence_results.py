"""What validate, layers and features return: frozen, and the contract of their `--json`."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from infprune.pipeline.contract import SCHEMA, Version


@dataclass(frozen=True)
class CurvatureRow:
    """With what Theorem 1 was applied.

    `space`: weights or gates; `curvature`, `solver`, `form`: as configured, with `auto` resolved. `ridge` and `damping`
    are absolute and both on the diagonal; only the ridge is part of the loss. `gradient_norm`: of the regularised loss;
    the theorem takes it for zero. Eigenvalues: Lanczos estimates of the curvature with the ridge, without the damping;
    null where nobody asked.
    """

    space: str
    curvature: str
    solver: str
    form: str
    parameters: int
    samples: int
    ridge: float
    damping: float
    gradient_norm: float | None = None
    least_eigenvalue: float | None = None
    greatest_eigenvalue: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Pearson's r of predicted with actual, and the least-squares slope of predicted over actual; null: undefined."""

    r: float | None
    slope: float | None


@dataclass(frozen=True)
class FormRow:
    """One form at one group size: predicted against retrained.

    `share` 0: single parameters. `loss`: change of the regularised training loss, a point per group. `kept`: change
    of the parameters that were not removed, all groups pooled; `kept_r_mean`: r within a group, averaged over groups.
    `everything`: the same with the removed ones, which the exact form pins (that inflates r). `test`: change of the
    mean test loss, to first order (MU eq. 5), and `test_second` with the quadratic term. `infinite`: groups without a
    finite prediction, left out. `contained`: brackets that hold the exact quadratic value, or null. `load`: mean of k *
    mean |corr| in H^-1.
    """

    form: str
    share: float
    parameters: int
    groups: int
    loss: Agreement
    kept: Agreement
    kept_r_mean: float | None
    everything: Agreement
    test: Agreement
    test_second: Agreement
    infinite: int
    contained: int | None
    load: float | None


@dataclass(frozen=True)
class ValidateResult:
    """Result of `infprune validate`; `unconverged`: groups whose retraining missed the tolerance, left out."""

    model: str
    data: str
    curvature: CurvatureRow
    train_loss: float
    test_loss: float
    rows: list[FormRow]
    unconverged: int
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["validate"] = "validate"


@dataclass(frozen=True)
class Panel:
    """The points of one group size: shifts `(groups, P)` and changes `(groups,)`, by form where predicted."""

    share: float
    removed: Tensor
    actual_shift: Tensor
    actual_change: Tensor
    shift: dict[str, Tensor]
    change: dict[str, Tensor]


@dataclass(frozen=True)
class InfluenceRow:
    """Theorem 1 for one group.

    `influence`: predicted change of the mean loss (nats) with all else adapting; `of_damping`: the part 1/2 (ridge +
    damping) |theta_S|^2 of its upper end that the diagonal alone makes. `low`, `high`: bounds on the quadratic, or
    null. `frozen_loss`: measured change of the regularised loss on the same samples with the group at zero and nothing
    adapting, or null. `note`: why a value is not to be trusted, or null.
    """

    name: str
    parameters: int
    influence: float | None
    of_damping: float
    low: float | None
    high: float | None
    frozen_loss: float | None
    note: str | None


@dataclass(frozen=True)
class LayersResult:
    """Result of `infprune layers`; `loss`: the regularised one; `left_out`: layers without a row, with the reason."""

    model: str
    data: str
    curvature: CurvatureRow
    loss: float
    rows: list[InfluenceRow]
    left_out: list[str]
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["layers"] = "layers"


@dataclass(frozen=True)
class FeatureRow:
    """Predicted change of the mean loss (nats) without one input feature, and its place from 1 for the largest."""

    name: str
    influence: float | None
    rank: int


@dataclass(frozen=True)
class FeaturesResult:
    """Result of `infprune features`, in the order of the features; `shape`: of a map `(H, W)` of them, or null."""

    model: str
    data: str
    curvature: CurvatureRow
    read_by: str
    accuracy: float
    rows: list[FeatureRow]
    shape: list[int] | None
    top: int
    seconds: dict[str, float]
    files: list[str]
    run_dir: str
    schema_version: Version = SCHEMA
    command: Literal["features"] = "features"
