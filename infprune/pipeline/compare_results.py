"""What compare returns: frozen, and the contract of its `--json`."""

from dataclasses import dataclass
from typing import Literal

from infprune.latency import Quartiles
from infprune.pipeline.contract import SCHEMA, Version
from infprune.pipeline.results import Gate


@dataclass(frozen=True)
class Contender:
    """One of two networks: `source` is its file or "dense"; what it costs, and how it does on the test split."""

    source: str
    model: str
    accuracy: float
    loss: float
    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class PairedLatency:
    """Milliseconds of one forward pass over one sample, in `n` alternating rounds; `ratio`: b / a.

    `verdict` on b: faster, slower or same; see `infprune.latency.Comparison`.
    """

    n: int
    device: str
    threads: int
    a: Quartiles
    b: Quartiles
    ratio: Quartiles
    verdict: str


@dataclass(frozen=True)
class CompareResult:
    """Result of `infprune compare`.

    `drop`: accuracy of `a` less that of `b`. `agreement`: share of samples whose largest logit is the same. `kl`: mean
    Kullback-Leibler divergence of the outputs of `b` from those of `a`, sum of p_a log(p_a / p_b), in nats.
    """

    data: str
    samples: int
    a: Contender
    b: Contender
    drop: float
    agreement: float
    kl: float
    latency_ms: PairedLatency
    gates: list[Gate]
    missed: list[str]
    seconds: dict[str, float]
    schema_version: Version = SCHEMA
    command: Literal["compare"] = "compare"
