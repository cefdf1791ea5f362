"""`infprune score`: calibration pass -> scores file and a table of layers."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from infprune import cost, selection
from infprune.artifacts import ScoresManifest, read_scores, write_scores
from infprune.config import Config
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.errors import InputError
from infprune.models.checkpoint import digest
from infprune.pipeline.results import LayerRow, ScoreResult
from infprune.pipeline.session import Session, open_coupling, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, Silent, told
from infprune.scores.contract import ChannelScores, ScoringInputs
from infprune.scores.measure import collect, needs_of, score


def run(settings: Config, progress: Progress) -> ScoreResult:
    """Score every prunable channel and write the scores."""
    watch = Stopwatch()
    with watch.stage("load"):
        session = open_session(settings, "score")
        module = open_model(session)
    with watch.stage("coupling"):
        coupling = open_coupling(module, session)
        layers = selection.prunable(coupling, settings.prune.protect)
    with watch.stage("score"):
        scores = measured(session, module, layers, progress)
    path = Path(settings.run.output or session.folder / "scores.safetensors")
    samples = min(settings.data.calibration, len(session.splits.train))
    settings_dump = session.config.model_dump()
    settings_dump.pop("run")
    write_scores(
        path,
        scores,
        ScoresManifest(
            criterion=scores.criterion,
            unit=scores.unit,
            base_sha256=digest(module),
            samples=samples,
            seed=settings.run.seed,
            config=settings_dump,
        ),
    )
    session.record()
    plan = selection.select(coupling, layers, scores.values, budget(settings), limits(settings))
    return ScoreResult(
        criterion=scores.criterion,
        unit=scores.unit,
        model=session.model_name,
        rate_achieved=plan.rate,
        samples=samples,
        layers=rows(coupling, scores, plan),
        seconds=watch.seconds,
        scores=str(path),
    )


def measured(
    session: Session, module: nn.Module, layers: tuple[ChannelLayer, ...], progress: Progress
) -> ChannelScores:
    """Scores from the configured scores file, else from one calibration pass."""
    settings = session.config
    if settings.score.file is not None:
        return _reused(Path(settings.score.file), module, layers)
    return scored(session, module, layers, (settings.score.criterion,), progress)[settings.score.criterion]


def scored(
    session: Session,
    module: nn.Module,
    layers: tuple[ChannelLayer, ...],
    criteria: tuple[str, ...],
    progress: Progress,
    seed: int | None = None,
) -> dict[str, ChannelScores]:
    """Score by several criteria from one shared pass."""
    settings = session.config
    seed = settings.run.seed if seed is None else seed
    samples = session.calibration(seed)
    draws = settings.score.samples_per_input
    with (progress if needs_of(criteria) else Silent()).bar("calibration", len(samples)) as bar:
        statistics = collect(module, layers, told(samples, bar), needs_of(criteria), seed=seed, draws=draws)
    inputs = ScoringInputs(module, layers, statistics, automatic(settings.score.damping), seed)
    return {name: score(name, inputs) for name in criteria}


def automatic(value: float | Literal["auto"]) -> float | None:
    """A damping; None where the stage is to choose."""
    return None if value == "auto" else value


def budget(settings: Config) -> selection.Budget:
    """The configured budget."""
    return selection.Budget(settings.prune.rate, settings.prune.macs, settings.prune.params)


def limits(settings: Config) -> selection.Limits:
    """The configured scope, floor and rounding."""
    return selection.Limits(settings.prune.scope, settings.prune.floor, settings.prune.round_to)


def rows(
    coupling: Coupling,
    scores: ChannelScores,
    plan: selection.PruningPlan,
    unproved: Mapping[str, str] = MappingProxyType({}),
) -> list[LayerRow]:
    """One row per channel layer; the frozen, the protected and the unproved say why they are not cut."""
    total = cost.count(coupling).macs
    share = {name: macs / total for name, macs in cost.macs_by_layer(coupling).items()}
    points = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)

    def row(layer: ChannelLayer) -> LayerRow:
        if layer.name not in plan.masks:
            reason = layer.frozen or unproved.get(layer.name) or "protected"
            return LayerRow(layer.name, layer.size, layer.size, share[layer.name], [], reason)
        quantiles: Tensor = scores.values[layer.name].quantile(points)
        return LayerRow(layer.name, layer.size, plan.kept[layer.name], share[layer.name], quantiles.tolist())

    return [row(layer) for layer in coupling.layers]


def _reused(path: Path, module: nn.Module, layers: tuple[ChannelLayer, ...]) -> ChannelScores:
    scores, made = read_scores(path)
    if made.base_sha256 != digest(module):
        raise InputError(f"{path}: these scores belong to other weights; score this network again")
    for layer in layers:
        if layer.name not in scores.values or len(scores.values[layer.name]) != layer.size:
            raise InputError(f"{path}: no scores for {layer.name}; it was protected when they were made, score again")
    return ChannelScores(scores.criterion, scores.unit, {layer.name: scores.values[layer.name] for layer in layers})
