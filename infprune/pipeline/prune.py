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
from infprune.pipeline import gates
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.joint import learn, prepared
from infprune.pipeline.memory import within_memory
from infprune.pipeline.origins import goals, origins
from infprune.pipeline.prune_results import PruneResult
from infprune.pipeline.results import Change, Gate
from infprune.pipeline.savings import sizes, timed, verified
from infprune.pipeline.score import measured, rows
from infprune.pipeline.search import searches, settled
from infprune.pipeline.session import manifest
from infprune.pipeline.shrink import Order, Shrunk, shrink
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.scores.contract import ChannelScores


@within_memory
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
    known = settled(bench, scores, watch, progress)
    bench = known.bench
    checkpoint = session.folder / "finetune.ckpt"
    order = Order(bench.budget, settings.run.seed, settings.prune.finetune, checkpoint, resume)
    made = shrink(bench, scores, dense_accuracy, order, watch, progress)
    return replace(_finished(bench, made, scores, watch), search=known.search)


def _jointly(bench: Bench, watch: Stopwatch, progress: Progress, *, resume: bool) -> PruneResult:
    """Cut in the middle of fine-tuning, or what it has learned."""
    if searches(bench.session.config):
        method = bench.session.config.finetune.method
        raise ConfigError(f"prune.max_drop: {method} cannot search the rate; name a budget, e.g. prune.rate=0.5")
    bench = prepared(bench)
    with watch.stage("evaluate"):
        dense_accuracy = evaluate(bench.dense, bench.test).accuracy
    learned = learn(bench, dense_accuracy, watch, progress, resume=resume)
    result = _finished(bench, learned.shrunk, learned.scores, watch, learned.whole)
    return replace(result, joint=learned.trace)


def _finished(
    bench: Bench, made: Shrunk, scores: ChannelScores, watch: Stopwatch, whole: Mapping[str, str] = MappingProxyType({})
) -> PruneResult:
    """Time the network, judge it, write it, and tell."""
    session = bench.session
    with watch.stage("latency"):
        latency = timed(bench, made.module)
    judged = gates.of_prune(session.config, latency, made.accuracy)
    with watch.stage("write"):
        path = Path(session.config.run.output or session.folder / "pruned.safetensors")
        _write(path, bench, made, scores, judged)
    result = _result(bench, made, scores, latency, path, watch, whole)
    return replace(result, gates=judged, missed=gates.missed(judged))


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
    size = sizes(bench, plan)
    return PruneResult(
        model=session.model_name,
        data=session.data_name,
        criterion=scores.criterion,
        scope=prune.scope,
        compensate=prune.compensate,
        rate=prune.rate,
        rate_achieved=plan.rate,
        channels=size.channels,
        params=size.params,
        macs=size.macs,
        bytes=size.bytes,
        latency_ms=latency,
        accuracy=made.accuracy,
        verified=verified(bench, made.cut),
        layers=rows(bench.coupling, scores, plan, {**made.cut.frozen, **whole}),
        missed=[],
        seconds=watch.seconds,
        artifact=str(path),
        run_dir=str(session.folder),
        unit=scores.unit,
        goals=goals(prune, plan.rate, size.costs | {"latency": latency}),
        provenance=origins(bench, path),
    )


def _write(path: Path, bench: Bench, made: Shrunk, scores: ChannelScores, judged: list[Gate]) -> None:
    settings, plan = bench.session.config, made.cut.plan
    after = cost.count(bench.coupling, plan.kept)
    metrics = {
        "accuracy": asdict(made.accuracy),
        "criterion": scores.criterion,
        "rate_achieved": plan.rate,
        "params": after.params,
        "macs": after.macs,
        "max_relative_error": made.cut.proof.max_relative_error,
        "missed": gates.marks(judged),
    }
    digest = sha256(settings.score.file) if settings.score.file else None
    described = manifest(
        bench.session, bench.dense, made.cut.kept, scores_sha256=digest, plan=plan.kept, metrics=metrics
    )
    write_model(path, made.module, described, bench.session.replay)
