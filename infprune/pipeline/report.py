"""`infprune report`: accuracy against rate, for each criterion and seed. One calibration and one score per seed."""

import difflib
import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from infprune import __version__, config, cost, selection
from infprune.data.subset_file import outline
from infprune.errors import ConfigError
from infprune.evaluation import evaluate
from infprune.models.checkpoint import digest
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.memory import within_memory
from infprune.pipeline.origins import origins
from infprune.pipeline.report_results import ReportResult, ReportRow
from infprune.pipeline.score import scored
from infprune.pipeline.shrink import Order, Shrunk, shrink
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.store import Store
from infprune.progress import Progress
from infprune.scores import SCORES

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


@within_memory
def run(settings: config.Config, grid: Grid, progress: Progress, *, resume: bool) -> ReportResult:
    """Measure the whole grid, fine-tuned as well with `prune.finetune`.

    Every finished measurement is stored at once, and `resume` skips those.
    """
    if settings.finetune.method != "standard":
        raise ConfigError(
            f"finetune.method: report cuts by scores, not by {settings.finetune.method}; drop it, or use infprune prune"
        )
    watch = Stopwatch()
    bench = open_bench(settings, "report", watch)
    session = bench.session
    store = Store(session.folder / "measurements.json", _identity(bench), resume=resume, valid=_measured)
    with watch.stage("evaluate"):
        accuracy = evaluate(bench.dense, bench.test).accuracy
    with progress.bar("report", grid.seeds * len(grid.criteria) * len(grid.rates)) as bar:
        for seed in range(settings.run.seed, settings.run.seed + grid.seeds):
            points = [(c, r) for c in grid.criteria for r in grid.rates]
            missing = [(c, r) for c, r in points if store.get(_key(seed, c, r)) is None]
            for _ in range(len(points) - len(missing)):
                bar.advance("resumed")
            if not missing:
                continue
            with watch.stage("score"):
                scores = scored(bench, tuple(dict.fromkeys(c for c, _ in missing)), seed, progress)
            for criterion, rate in missing:
                order = Order(selection.Budget(rate=rate), seed, settings.prune.finetune)
                made = shrink(bench, scores[criterion], accuracy, order, watch, progress)
                store.put(_key(seed, criterion, rate), _measurement(bench, made))
                bar.advance(f"{criterion} {rate:g} seed {seed}")
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
        provenance=origins(bench),
    )


def _measurement(bench: Bench, made: Shrunk) -> Measurement:
    plan, accuracy = made.cut.plan, made.accuracy
    return {
        "rate_achieved": plan.rate,
        "macs": cost.count(bench.coupling, plan.kept).macs / cost.count(bench.coupling).macs,
        "cut": accuracy.cut,
        "compensated": accuracy.compensated,
        "distilled": accuracy.distilled,
        "finetuned": accuracy.finetuned,
    }


def _measured(value: Any) -> bool:
    """Whether a value that was read back is a measurement."""
    needed, optional = ("rate_achieved", "macs", "cut"), ("compensated", "distilled", "finetuned")
    return (
        isinstance(value, dict)
        and value.keys() == {*needed, *optional}
        and all(_number(value[key]) for key in needed)
        and all(value[key] is None or _number(value[key]) for key in optional)
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _identity(bench: Bench) -> str:
    content = bench.session.config.model_dump() | {"weights": digest(bench.dense)}
    content["data"] = [bench.session.data_identity, outline(bench.session.splits.test)]
    content["versions"] = [__version__, torch.__version__]
    content["run"] = {key: content["run"][key] for key in ("precision",)}
    content["prune"] = {
        key: value
        for key, value in content["prune"].items()
        if key not in ("rate", "macs", "params", "bytes", "latency")
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _key(seed: int, criterion: str, rate: float) -> str:
    return f"{criterion}/{rate}/{seed}"


def _row(store: Store, grid: Grid, first: int, criterion: str, rate: float) -> ReportRow:
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
        distilled=spread("distilled"),
    )
