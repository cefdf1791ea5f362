"""The seam of a criterion: what it may look at, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer
from infprune.curvature.kronecker import InputMoment, KroneckerFactors


class Need(StrEnum):
    """A statistic of the calibration pass."""

    KRONECKER = "kronecker"
    MOMENTS = "moments"
    GATES_MODEL = "gates-model"
    GATES_DATA = "gates-data"
    MASK_GRADIENTS = "mask-gradients"


@dataclass(frozen=True)
class Statistics:
    """What one pass over the calibration data collected; empty where nobody asked.

    `kronecker`: by module name, and `moments`, the factors A alone, of modules that are not too wide. The others by
    layer name: gate gradients `(N, C)`, mask gradients `(C,)`.
    """

    samples: int = 0
    kronecker: Mapping[str, KroneckerFactors] = field(default_factory=dict)
    moments: Mapping[str, InputMoment] = field(default_factory=dict)
    gates_model: Mapping[str, Tensor] = field(default_factory=dict)
    gates_data: Mapping[str, Tensor] = field(default_factory=dict)
    mask_gradients: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoringInputs:
    """The network, the layers to score, the statistics, the damping (absolute; None chooses) and a seed."""

    module: nn.Module
    layers: Sequence[ChannelLayer]
    statistics: Statistics
    damping: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Criterion:
    """A score: `score(inputs)` returns one `(C,)` tensor per layer name, larger = keep; `unit` says of what.

    `separable`: the scores of a layer do not depend on which others there are, so ranks may share the layers.
    """

    score: Callable[[ScoringInputs], dict[str, Tensor]]
    needs: frozenset[Need] = frozenset()
    unit: str = "loss (nats)"
    separable: bool = False


@dataclass(frozen=True)
class Curve:
    """Measured loss of a layer that alone is narrowed: `loss[i]` with `kept[i]` channels, widths descending.

    The full width, which loses nothing, is left out. See `infprune.sensitivity`.
    """

    kept: tuple[int, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class ChannelScores:
    """Scores of all prunable channels, by layer name: float64 `(C,)` on the CPU, finite; larger = keep.

    `curves`: what layers lose at some widths, by layer name; empty where that was not measured.
    """

    criterion: str
    unit: str
    values: Mapping[str, Tensor]
    curves: Mapping[str, Curve] = field(default_factory=dict)
