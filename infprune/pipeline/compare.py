"""`infprune compare`: two networks on the same test data, judged by gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from infprune import config, cost, latency
from infprune.artifacts import Manifest, load, read_manifest
from infprune.coupling.couple import couple
from infprune.errors import ConfigError, InputError
from infprune.evaluation import Evaluation, contrast
from infprune.forward import logits
from infprune.models.attention import explicit
from infprune.models.checkpoint import digest
from infprune.pipeline import gates
from infprune.pipeline.artifact import settings_for
from infprune.pipeline.compare_results import CompareResult, Contender, PairedLatency
from infprune.pipeline.memory import within_memory
from infprune.pipeline.results import Gate
from infprune.pipeline.session import Session, check_logits, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, told

DENSE = "dense"  # the word for the network that was not cut
ROUNDS = 31
SAME_DATA = ("name", "factory", "args")  # what decides about the test samples, but for where they lie


@dataclass(frozen=True)
class Asked:
    """Two sources, each a file or "dense", and the gates; `configured`: a configuration was named."""

    a: str
    b: str
    max_drop: float | None = None
    min_agreement: float | None = None
    configured: bool = False

    @property
    def files(self) -> list[Path]:
        """The sources that are files."""
        return [Path(source) for source in (self.a, self.b) if source != DENSE]


@dataclass(frozen=True)
class Side:
    """A network, ready to be measured."""

    source: str
    name: str
    module: nn.Module


def settings(asked: Asked, source: str | None, overrides: Sequence[str]) -> config.Config:
    """The configuration to compare with: the named one, else the one inside the first file, else the usual one.

    Raises:
        ConfigError: a limit out of range, or files that were made on different data and no word on which to take.
        InputError: files that cannot be compared.
    """
    _check_limits(asked)
    manifests = {path: read_manifest(path) for path in asked.files}
    _check_manifests(manifests)
    if source is not None or not manifests:
        return config.load(source, overrides)
    if not config.given(overrides, "data") & {"name", "factory"}:
        _check_data(manifests)
    first = next(iter(manifests))
    found = settings_for(first, None, overrides)
    stored = manifests[first].config.get("model", {}).get("checkpoint")
    if stored is None or "checkpoint" in config.given(overrides, "model"):
        return found
    return found.model_copy(update={"model": found.model.model_copy(update={"checkpoint": str(stored)})})


@within_memory
def run(asked: Asked, chosen: config.Config, progress: Progress) -> CompareResult:
    """Open both, measure them on the test split in one pass, count and time them, and judge."""
    watch = Stopwatch()
    with watch.stage("load"):
        session = open_session(chosen, "compare")
        a, b = _opened(asked.a, asked, session), _opened(asked.b, asked, session)
        _check_outputs(a, b, session)
    with watch.stage("cost"):
        costs = [_cost(side, session) for side in (a, b)]
    test = session.batches(session.splits.test)
    with watch.stage("evaluate"), progress.bar("compare", len(test)) as bar:
        found = contrast(a.module, b.module, told(test, bar))
    with watch.stage("latency"), progress.bar("latency", ROUNDS) as bar:
        timed = latency.compare(a.module, b.module, session.example(1), told(range(ROUNDS), bar))
    drop = found.a.accuracy - found.b.accuracy
    judged = _judged(asked, drop, found.agreement)
    return CompareResult(
        data=session.data_name,
        samples=found.a.samples,
        a=_contender(a, costs[0], found.a),
        b=_contender(b, costs[1], found.b),
        drop=drop,
        agreement=found.agreement,
        kl=found.kl,
        latency_ms=PairedLatency(
            timed.n,
            str(session.device),
            torch.get_num_threads(),
            timed.dense,
            timed.pruned,
            timed.ratio,
            timed.verdict,
        ),
        gates=judged,
        missed=gates.missed(judged),
        seconds=watch.seconds,
    )


def _judged(asked: Asked, drop: float, agreement: float) -> list[Gate]:
    judged = []
    if asked.max_drop is not None:
        judged.append(gates.greatest_drop(drop, asked.max_drop))
    if asked.min_agreement is not None:
        judged.append(gates.least_agreement(agreement, asked.min_agreement))
    return judged


def _opened(source: str, asked: Asked, session: Session) -> Side:
    if source == DENSE:
        module = explicit(open_model(session))
        if not asked.configured:
            _check_origin(module, asked)
        return Side(source, session.model_name, module)
    loaded = load(source, factory=session.config.model.factory, device=session.device)
    check_logits(loaded.module, session)
    return Side(source, str(loaded.manifest.name or loaded.manifest.factory), loaded.module)


def _check_origin(dense: nn.Module, asked: Asked) -> None:
    """Without a named configuration, "dense" means the network that the file was cut from."""
    for path in asked.files:
        if read_manifest(path).base_sha256 not in (None, digest(dense)):
            raise InputError(
                f"{path} was not cut from the dense weights at hand; name those with model.checkpoint=FILE, "
                "or a configuration with -c"
            )


def _cost(side: Side, session: Session) -> cost.Cost:
    return cost.count(couple(side.module, session.example()))


def _contender(side: Side, size: cost.Cost, found: Evaluation) -> Contender:
    return Contender(side.source, side.name, found.accuracy, found.loss, size.params, size.macs, size.bytes)


def _check_limits(asked: Asked) -> None:
    for option, value in (("--max-drop", asked.max_drop), ("--min-agreement", asked.min_agreement)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{option}: expected a number in [0, 1], got {value}")


def _check_manifests(manifests: dict[Path, Manifest]) -> None:
    """Files of other classes or inputs have no test data in common."""
    if len(manifests) < 2:
        return
    (path, one), (other, two) = manifests.items()
    if one.classes != two.classes:
        raise InputError(f"{path} tells {one.classes} classes apart, {other} {two.classes}; compare like with like")
    if one.inputs != two.inputs:
        shapes = [" and ".join(f"{i.dtype} {tuple(i.shape)}" for i in m.inputs) for m in (one, two)]
        raise InputError(f"{path} takes {shapes[0]}, {other} {shapes[1]}; compare like with like")


def _check_data(manifests: dict[Path, Manifest]) -> None:
    made = {path: m.config.get("data", {}) for path, m in manifests.items()}
    parts = [tuple(data.get(key) or None for key in SAME_DATA) for data in made.values()]
    if any(part != parts[0] for part in parts):
        names = " and ".join(f"{path} on {data.get('name') or data.get('factory')}" for path, data in made.items())
        raise ConfigError(f"made on different data: {names}; say which to compare on, with -c or data.name=")


def _check_outputs(a: Side, b: Side, session: Session) -> None:
    with torch.no_grad():
        one, two = (logits(side.module, session.example()).shape[1] for side in (a, b))
    if one != two:
        raise InputError(f"{a.source} returns {one} logits, {b.source} {two}; compare like with like")
