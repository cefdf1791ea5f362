"""What `infprune doctor` returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Any, Literal

from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.results import Change


@dataclass(frozen=True)
class SliceRow:
    """Where a layer's channels stand in a dimension of a tensor: `positions` entries for each channel.

    `role`: producer, consumer, through or size; see `infprune.coupling.groups.Role`. A size is an integer attribute of
    a module, `module@attribute`, that follows the cut.
    """

    tensor: str
    dim: int
    role: str
    positions: int


@dataclass(frozen=True)
class Diagnosis:
    """One channel layer: the shares of all MACs and parameters that would go with it, and why it is frozen, or null.

    `inexact`: the norm whose statistics run over its channels. `gated`: measured where the channels are made.
    """

    name: str
    channels: int
    macs_share: float
    params_share: float
    frozen: str | None
    inexact: str | None
    gated: bool
    slices: list[SliceRow]


@dataclass(frozen=True)
class Extent:
    """A number of channel layers, and of channels in them."""

    layers: int
    channels: int


@dataclass(frozen=True)
class DoctorResult:
    """Result of `infprune doctor`.

    `weights`: shipped, random, or a file. `params`, `macs`: of the network, and of the one whose prunable layers all
    have the least width. `stopped`: why the trial cuts ended early, or null; `untried` layers, frozen for that reason,
    may be prunable. `peak_bytes`: the most main memory that the process held, torch itself included; 0: unknown.
    """

    model: str
    source: str | None
    weights: str
    inputs: list[dict[str, Any]]
    prunable: Extent
    total: Extent
    params: Change
    macs: Change
    layers: list[Diagnosis]
    untried: int
    stopped: str | None
    seconds: dict[str, float]
    peak_bytes: int
    schema_version: Version = SCHEMA
    command: Literal["doctor"] = "doctor"
