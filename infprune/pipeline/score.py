"""`infprune score`: calibration pass -> scores file and a table of layers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from infprune import cost, ranks, selection, sensitivity
from infprune.artifacts import ScoresManifest, read_scores, write_scores
from infprune.config import Config
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.errors import BudgetError, InputError
from infprune.models.checkpoint import digest
from infprune.pipeline import cutting
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.memory import within_memory
from infprune.pipeline.passes import planned_passes
from infprune.pipeline.results import LayerRow, ScoreResult
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, Silent, told
from infprune.scores.contract import ChannelScores, Need, ScoringInputs, Statistics
from infprune.scores.measure import collect, needs_of, score


@within_memory
def run(settings: Config, progress: Progress) -> ScoreResult:
    """Score every prunable channel and write the scores; the table shows what the configured budget would keep.

    Raises:
        BudgetError: it cannot be met; the scores, which do not depend on it, are written all the same.
    """
    watch = Stopwatch()
    bench = open_bench(settings, "score", watch)
    session = bench.session
    with watch.stage("score"):
        scores = measured(bench, progress)
    path = Path(settings.run.output or session.folder / "scores.safetensors")
    samples = min(settings.data.calibration, len(session.splits.train))
    described = ScoresManifest(
        criterion=scores.criterion,
        unit=scores.unit,
        base_sha256=digest(bench.dense),
        samples=samples,
        seed=settings.run.seed,
        config=session.config.model_dump(exclude={"run"}),
    )
    write_scores(path, scores, described, session.replay)
    plan = _planned(bench, scores, path)
    return ScoreResult(
        criterion=scores.criterion,
        unit=scores.unit,
        model=session.model_name,
        rate_achieved=plan.rate,
        samples=samples,
        layers=rows(bench.coupling, scores, plan),
        seconds=watch.seconds,
        scores=str(path),
    )


def _planned(bench: Bench, scores: ChannelScores, path: Path) -> selection.PruningPlan:
    try:
        return cutting.planned(
            bench.dense, bench.coupling, bench.layers, scores, bench.budget, bench.limits, bench.session.example(1)
        )
    except BudgetError as error:
        raise BudgetError(f"{error}; the scores were written, use --scores {path} with another budget") from error


def measured(bench: Bench, progress: Progress) -> ChannelScores:
    """Scores from the configured scores file, else from one calibration pass."""
    settings = bench.session.config
    if settings.score.file is not None:
        return _reused(Path(settings.score.file), bench)
    criterion = settings.score.criterion
    return scored(bench, (criterion,), settings.run.seed, progress)[criterion]


def scored(bench: Bench, criteria: tuple[str, ...], seed: int, progress: Progress) -> dict[str, ChannelScores]:
    """Score by several criteria from one shared pass; where memory does not suffice, from several."""
    settings, needs = bench.session.config.score, needs_of(criteria)
    calibrated = bench.session.config.prune.scope == "calibrated"
    needs |= {Need.MOMENTS} if calibrated else set()
    share = ranks.share(bench.session.calibration(seed), least=1 if needs else 0)
    damping = None if settings.damping == "auto" else settings.damping
    found: dict[str, ChannelScores] = {}
    passes = planned_passes(bench, criteria, needs)
    for i, one in enumerate(passes, 1):
        called = "calibration" if len(passes) == 1 else f"calibration, pass {i} of {len(passes)}"
        with (progress if one.needs else Silent()).bar(called, len(share.batches)) as bar:
            statistics = collect(
                bench.dense,
                one.layers,
                one.split(told(share.batches, bar)),
                one.needs,
                seed=seed,
                draws=settings.samples_per_input,
                positions=bench.session.config.data.positions,
                precision=bench.session.precision,
                before=share.before,
            )
        inputs = ScoringInputs(bench.dense, one.layers, statistics, damping, seed)
        for name in one.criteria:
            part = score(name, inputs)
            found[name] = replace(part, values={**found[name].values, **part.values}) if name in found else part
        del inputs
        if i < len(passes):
            del statistics  # the factors go before the next pass makes its own
    if calibrated:  # the last pass then saw all layers
        return {name: _with_curves(bench, found[name], statistics, progress) for name in criteria}
    return {name: found[name] for name in criteria}


def _with_curves(bench: Bench, scores: ChannelScores, statistics: Statistics, progress: Progress) -> ChannelScores:
    """Measure what each layer loses at several widths, on validation samples."""
    curves = sensitivity.measure(
        bench.dense,
        bench.coupling,
        bench.layers,
        scores.values,
        statistics.moments,
        bench.trial_samples,
        progress=progress,
    )
    return replace(scores, curves=curves)


def rows(
    coupling: Coupling,
    scores: ChannelScores,
    plan: selection.PruningPlan,
    unproved: Mapping[str, str] = MappingProxyType({}),
) -> list[LayerRow]:
    """One row per channel layer; the frozen, the protected and the unproved say why they are not cut."""
    total = cost.count(coupling).macs
    share = {name: macs / total for name, macs in cost.macs_by_layer(coupling).items()}
    points = torch.linspace(0, 1, 21, dtype=torch.float64)

    def row(layer: ChannelLayer) -> LayerRow:
        if layer.name not in plan.masks:
            reason = layer.frozen or unproved.get(layer.name) or "protected"
            return LayerRow(layer.name, layer.size, layer.size, share[layer.name], [], reason, layer.inexact)
        spread: list[float] = scores.values[layer.name].quantile(points).tolist()
        kept = plan.kept[layer.name]
        return LayerRow(layer.name, layer.size, kept, share[layer.name], spread[::5], None, layer.inexact, spread)

    return [row(layer) for layer in coupling.layers]


def _reused(path: Path, bench: Bench) -> ChannelScores:
    scores, made = read_scores(path)
    if made.base_sha256 != digest(bench.dense):
        raise InputError(f"{path}: these scores belong to other weights; score this network again")
    for layer in bench.layers:
        if layer.name not in scores.values or len(scores.values[layer.name]) != layer.size:
            raise InputError(f"{path}: no scores for {layer.name}; it was protected when they were made, score again")
    names = [layer.name for layer in bench.layers]
    if bench.limits.scope == "calibrated" and not scores.curves.keys() >= set(names):
        raise InputError(
            f"{path}: scores without curves; score again with prune.scope=calibrated, or use another scope"
        )
    curves = {name: scores.curves[name] for name in names if name in scores.curves}
    return ChannelScores(scores.criterion, scores.unit, {name: scores.values[name] for name in names}, curves)
