"""`infprune report`: accuracy against rate, for each criterion and seed. One calibration and one score per seed."""

import difflib
import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from infprune import __version__, config, cost, selection
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.data.loaders import Batches
from infprune.errors import BudgetError, ConfigError, InputError
from infprune.evaluation import evaluate
from infprune.files import atomic_write
from infprune.models.checkpoint import digest
from infprune.pipeline import cutting
from infprune.pipeline.results import ReportResult, ReportRow
from infprune.pipeline.score import automatic, limits, scored
from infprune.pipeline.session import Session, open_coupling, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.scores import SCORES
from infprune.scores.contract import ChannelScores
from infprune.training import train

Measurement = dict[str, float | None]


@dataclass(frozen=True)
class Grid:
    """What is compared."""

    rates: Sequence[float]
    criteria: Sequence[str]
    seeds: int


def grid(rates: str, criteria: str, seeds: int) -> Grid:
    """Parse comma-separated rates and criteria.

    Raises:
        ConfigError: a rate outside [0, 1) or an unknown criterion.
    """
    try:
        numbers = list(dict.fromkeys(float(word) for word in rates.split(",")))
    except ValueError:
        raise ConfigError(f"--rates: expected numbers like 0.2,0.5, got {rates!r}") from None
    if not all(0 <= number < 1 for number in numbers):
        raise ConfigError(f"--rates: expected numbers in [0, 1), got {rates!r}")
    names = list(dict.fromkeys(word.strip() for word in criteria.split(",")))
    for name in names:
        if name not in SCORES:
            close = difflib.get_close_matches(name, SCORES, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(SCORES)}"
            raise ConfigError(f"--criteria: unknown criterion {name!r}; {hint}")
    return Grid(numbers, names, seeds)


@dataclass(frozen=True)
class _Bench:
    """What every measurement needs."""

    session: Session
    dense: nn.Module
    coupling: Coupling
    layers: tuple[ChannelLayer, ...]
    test: Batches


def run(settings: config.Config, grid: Grid, progress: Progress, *, finetune: bool, resume: bool) -> ReportResult:
    """Measure the whole grid; every finished measurement is stored at once, and `resume` skips those."""
    watch = Stopwatch()
    with watch.stage("load"):
        session = open_session(settings, "report")
        dense = open_model(session)
        test = session.batches(session.splits.test)
        accuracy = evaluate(dense, test).accuracy
    with watch.stage("coupling"):
        coupling = open_coupling(dense, session)
        layers = selection.prunable(coupling, settings.prune.protect)
    bench = _Bench(session, dense, coupling, layers, test)
    store = _Store(session.folder / "measurements.json", _identity(session, dense, finetune=finetune), resume=resume)
    with progress.bar("report", grid.seeds * len(grid.criteria) * len(grid.rates)) as bar:
        for seed in range(settings.run.seed, settings.run.seed + grid.seeds):
            _measure_seed(bench, grid, seed, store, watch, progress, bar.advance, finetune=finetune)
    session.record()
    return ReportResult(
        model=session.model_name,
        data=session.data_name,
        dense=accuracy,
        scope=settings.prune.scope,
        compensate=settings.prune.compensate,
        calibration=min(settings.data.calibration, len(session.splits.train)),
        rows=[_row(store, grid, settings.run.seed, c, r) for c in grid.criteria for r in grid.rates],
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )


class _Store:
    """Finished measurements on disk, by key; a run with other settings does not see them."""

    def __init__(self, path: Path, identity: str, *, resume: bool) -> None:
        self._path, self._identity = path, identity
        self._found: dict[str, Measurement] = {}
        if resume and path.exists():
            self._found = _stored(path, identity)

    def get(self, key: str) -> Measurement | None:
        return self._found.get(key)

    def put(self, key: str, value: Measurement) -> None:
        self._found[key] = value
        atomic_write(self._path, json.dumps({"identity": self._identity, "measurements": self._found}, indent=1))


def _stored(path: Path, identity: str) -> dict[str, Measurement]:
    try:
        content = json.loads(path.read_text())
        found: dict[str, Measurement] = dict(content["measurements"])
        made = content["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot resume from {path}: it is damaged; delete it to start over") from error
    if made != identity:
        raise ConfigError(
            f"cannot resume from {path}: it was measured with other settings, weights or versions; "
            "give another run.dir, or drop --resume to start over"
        )
    return found


def _identity(session: Session, dense: nn.Module, *, finetune: bool) -> str:
    content = session.config.model_dump() | {"finetuned": finetune, "weights": digest(dense)}
    content["versions"] = [__version__, torch.__version__]
    content["run"] = {key: content["run"][key] for key in ("precision",)}
    content["prune"] = {key: value for key, value in content["prune"].items() if key not in ("rate", "macs", "params")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _key(seed: int, criterion: str, rate: float) -> str:
    return f"{criterion}/{rate}/{seed}"


def _measure_seed(
    bench: _Bench,
    grid: Grid,
    seed: int,
    store: _Store,
    watch: Stopwatch,
    progress: Progress,
    tell: Callable[[str], None],
    *,
    finetune: bool,
) -> None:
    missing = [(c, r) for c in grid.criteria for r in grid.rates if store.get(_key(seed, c, r)) is None]
    for _ in range(len(grid.criteria) * len(grid.rates) - len(missing)):
        tell("resumed")
    if not missing:
        return
    with watch.stage("score"):
        wanted = tuple(dict.fromkeys(c for c, _ in missing))
        scores = scored(bench.session, bench.dense, bench.layers, wanted, progress, seed)
    for criterion, rate in missing:
        with watch.stage("measure"):
            store.put(
                _key(seed, criterion, rate), _measure(bench, scores[criterion], rate, seed, progress, finetune=finetune)
            )
        tell(f"{criterion} {rate:g} seed {seed}")


def _measure(
    bench: _Bench, scores: ChannelScores, rate: float, seed: int, progress: Progress, *, finetune: bool
) -> Measurement:
    session, prune = bench.session, bench.session.config.prune
    budget = selection.Budget(rate=rate)
    try:
        made = cutting.cut(
            bench.dense, bench.coupling, bench.layers, scores.values, budget, limits(session.config), session.example(8)
        )
    except BudgetError as error:
        raise BudgetError(f"{scores.criterion}: {error}") from error
    small, compensated, finetuned = made.module, None, None
    cut = evaluate(small, bench.test).accuracy
    validation = session.batches(session.splits.validation)
    if prune.compensate != "none":
        small = cutting.compensate(
            bench.dense,
            made,
            bench.coupling,
            prune.compensate,
            session.calibration(seed),
            validation,
            automatic(prune.ls_damping),
            progress,
        )
        compensated = evaluate(small, bench.test).accuracy
    if finetune:
        tuned = train(
            small,
            session.splits.train,
            validation,
            session.recipe("finetune"),
            seed=seed,
            augment=session.augment(),
            progress=progress,
        )
        finetuned = evaluate(tuned.module, bench.test).accuracy
    macs = cost.count(bench.coupling, made.plan.kept).macs / cost.count(bench.coupling).macs
    return {
        "rate_achieved": made.plan.rate,
        "macs": macs,
        "cut": cut,
        "compensated": compensated,
        "finetuned": finetuned,
    }


def _row(store: _Store, grid: Grid, first: int, criterion: str, rate: float) -> ReportRow:
    found = [store.get(_key(seed, criterion, rate)) or {} for seed in range(first, first + grid.seeds)]

    def spread(stage: str) -> tuple[float, float] | None:
        values = [v for m in found if (v := m.get(stage)) is not None]
        if not values:
            return None
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    def mean(stage: str) -> float:
        pair = spread(stage)
        assert pair is not None
        return pair[0]

    cut = spread("cut")
    assert cut is not None
    return ReportRow(
        criterion=criterion,
        rate=rate,
        rate_achieved=mean("rate_achieved"),
        macs=mean("macs"),
        seeds=grid.seeds,
        cut=cut,
        compensated=spread("compensated"),
        finetuned=spread("finetuned"),
    )
