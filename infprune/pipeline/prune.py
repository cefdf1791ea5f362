"""`infprune prune`: the story of the whole run."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

from infprune import cost
from infprune.artifacts import write_model
from infprune.config import Config
from infprune.errors import ConfigError
from infprune.evaluation import evaluate
from infprune.files import sha256
from infprune.latency import compare
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.joint import learn, without_scores
from infprune.pipeline.origins import goals, origins
from infprune.pipeline.results import Accuracy, Change, PruneResult, Verified
from infprune.pipeline.score import measured, rows
from infprune.pipeline.search import largest_rate
from infprune.pipeline.session import manifest
from infprune.pipeline.shrink import Order, Shrunk, shrink
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.scores.contract import ChannelScores
from infprune.selection import PruningPlan

ROUNDS = 15


def run(settings: Config, progress: Progress, *, resume: bool = False) -> PruneResult:
    """Score, select, cut, prove, compensate, fine-tune if asked, measure, write."""
    watch = Stopwatch()
    bench = open_bench(settings, "prune", watch)
    session = bench.session
    if settings.finetune.method != "standard":
        return _jointly(bench, watch, progress, resume=resume)
    with watch.stage("score"):
        scores = measured(bench, progress)
    with watch.stage("evaluate"):
        dense_accuracy = evaluate(bench.dense, bench.test).accuracy
    search = None
    if _searches(settings):
        assert settings.prune.max_drop is not None
        with watch.stage("search"):
            search = largest_rate(bench, scores, settings.prune.max_drop, progress)
        bench = _at_rate(bench, search.rate)
        session = bench.session
    checkpoint = session.folder / "finetune.ckpt"
    order = Order(bench.budget, settings.run.seed, settings.prune.finetune, checkpoint, resume)
    made = shrink(bench, scores, dense_accuracy, order, watch, progress)
    return replace(_finished(bench, made, scores, watch), search=search)


def _jointly(bench: Bench, watch: Stopwatch, progress: Progress, *, resume: bool) -> PruneResult:
    """What to cut is learned while fine-tuning; no scores, no compensation."""
    if _searches(bench.session.config):
        raise ConfigError("prune.max_drop: only scores can search the rate; name a budget, e.g. prune.rate=0.5")
    bench = without_scores(bench)
    with watch.stage("evaluate"):
        dense_accuracy = evaluate(bench.dense, bench.test).accuracy
    learned = learn(bench, dense_accuracy, watch, progress, resume=resume)
    result = _finished(bench, learned.shrunk, learned.scores, watch, learned.whole)
    return replace(result, joint=learned.trace)


def _finished(
    bench: Bench, made: Shrunk, scores: ChannelScores, watch: Stopwatch, whole: Mapping[str, str] = MappingProxyType({})
) -> PruneResult:
    """Write the network, time it, and tell."""
    session = bench.session
    with watch.stage("write"):
        path = Path(session.config.run.output or session.folder / "pruned.safetensors")
        _write(path, bench, made, scores)
        session.record()
    with watch.stage("latency"):
        timed = compare(bench.dense, made.module, session.example(1), range(ROUNDS))
        latency = Change(timed.dense.median, timed.pruned.median)
    return _result(bench, made, scores, latency, path, watch, whole)


def _searches(settings: Config) -> bool:
    """Whether `max_drop` decides how much is cut: no budget was asked for."""
    return settings.prune.max_drop is not None and not settings.prune.model_fields_set & set(settings.prune.one_of)


def _at_rate(bench: Bench, rate: float) -> Bench:
    """The same with the rate that was found as its budget, which is then what is recorded."""
    config = bench.session.config
    prune = config.prune.model_copy(update={"rate": rate})
    return replace(bench, session=replace(bench.session, config=config.model_copy(update={"prune": prune})))


def _result(
    bench: Bench,
    made: Shrunk,
    scores: ChannelScores,
    latency: Change,
    path: Path,
    watch: Stopwatch,
    whole: Mapping[str, str],
) -> PruneResult:
    session, prune, plan = bench.session, bench.session.config.prune, made.cut.plan
    before, after = cost.count(bench.coupling), cost.count(bench.coupling, plan.kept)
    costs = {name: Change(before.of(name), after.of(name)) for name in ("params", "macs", "bytes")}
    return PruneResult(
        model=session.model_name,
        data=session.data_name,
        criterion=scores.criterion,
        scope=prune.scope,
        compensate=prune.compensate,
        rate=prune.rate,
        rate_achieved=plan.rate,
        channels=Change(sum(len(mask) for mask in plan.masks.values()), sum(plan.kept.values())),
        params=costs["params"],
        macs=costs["macs"],
        bytes=costs["bytes"],
        latency_ms=latency,
        accuracy=made.accuracy,
        verified=Verified(
            made.cut.proof.max_relative_error,
            [f"{name}: {reason}" for name, reason in made.cut.frozen.items()],
            _inexact(bench, plan),
        ),
        layers=rows(bench.coupling, scores, plan, {**made.cut.frozen, **whole}),
        missed=_missed(bench.session.config, made.accuracy),
        seconds=watch.seconds,
        artifact=str(path),
        run_dir=str(session.folder),
        unit=scores.unit,
        goals=goals(bench, plan.rate, {**costs, "latency": latency}, made.accuracy),
        provenance=origins(bench, path),
    )


def _inexact(bench: Bench, plan: PruningPlan) -> list[str]:
    """Norms whose statistics lost channels."""
    lost = {name for name, mask in plan.masks.items() if not bool(mask.all())}
    tensors = {s.tensor for layer in bench.coupling.layers if layer.name in lost for s in layer.slices}
    return sorted(name.rpartition(".")[0] for name in tensors & bench.coupling.norms)


def _write(path: Path, bench: Bench, made: Shrunk, scores: ChannelScores) -> None:
    settings, plan = bench.session.config, made.cut.plan
    after = cost.count(bench.coupling, plan.kept)
    metrics = {
        "accuracy": asdict(made.accuracy),
        "criterion": scores.criterion,
        "rate_achieved": plan.rate,
        "params": after.params,
        "macs": after.macs,
        "max_relative_error": made.cut.proof.max_relative_error,
        "missed": _missed(settings, made.accuracy),
    }
    digest = sha256(settings.score.file) if settings.score.file else None
    described = manifest(
        bench.session, bench.dense, made.cut.kept, scores_sha256=digest, plan=plan.kept, metrics=metrics
    )
    write_model(path, made.module, described)


def _missed(settings: Config, accuracy: Accuracy) -> list[str]:
    """The quality gates that the final accuracy misses."""
    missed = []
    floor, drop = settings.prune.min_accuracy, settings.prune.max_drop
    if floor is not None and accuracy.final < floor:
        missed.append(f"accuracy {accuracy.final:.4f} is below --min-accuracy {floor}")
    if drop is not None and accuracy.dense - accuracy.final > drop:
        missed.append(f"accuracy dropped by {accuracy.dense - accuracy.final:.4f}, more than --max-drop {drop}")
    return missed
