"""`infprune train` and `infprune finetune`: the one loop, from initial weights or from a pruned file."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from infprune import cost
from infprune.artifacts import write_model
from infprune.config import Config
from infprune.evaluation import evaluate
from infprune.forward import uncalled
from infprune.models.attention import Attention, explicit
from infprune.pipeline.artifact import open_artifact
from infprune.pipeline.bench import bench_of
from infprune.pipeline.joint import learn, prepared
from infprune.pipeline.memory import within_memory
from infprune.pipeline.results import Change, TrainResult
from infprune.pipeline.session import Session, manifest, open_model, open_session, provenance
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.surgery import composed
from infprune.training import Trained, train


@within_memory
def run(settings: Config, progress: Progress, *, resume: bool) -> TrainResult:
    """Train the configured network from its initial weights and write it."""
    watch = Stopwatch()
    with watch.stage("load"):
        session = open_session(settings, "train")
        module = open_model(session, trained=False)
        before = evaluate(module, session.batches(session.splits.test)).accuracy
    trained = _train(session, module, "train", watch, progress, resume=resume)
    after = evaluate(trained.module, session.batches(session.splits.test)).accuracy
    path = Path(settings.run.output or session.folder / "model.safetensors")
    described = manifest(
        session, trained.module, {}, scores_sha256=None, plan={}, metrics={"accuracy": {"dense": after}}
    )
    write_model(path, trained.module, described, session.replay)
    return _result("train", session, Change(before, after), trained, watch, path)


@within_memory
def finetune(path: Path, settings: Config, progress: Progress, *, resume: bool) -> TrainResult:
    """Fine-tune a pruned file, and prune it on if the method does so; write the result beside the run."""
    watch = Stopwatch()
    if settings.finetune.method != "standard":
        return _prune_on(path, settings, watch, progress, resume=resume)
    with watch.stage("load"):
        session = open_session(settings, "finetune")
        loaded = open_artifact(path, session)
        before = evaluate(loaded.module, session.batches(session.splits.test)).accuracy
    trained = _train(session, loaded.module, "finetune", watch, progress, resume=resume)
    after = evaluate(trained.module, session.batches(session.splits.test)).accuracy
    target = Path(settings.run.output or session.folder / "finetuned.safetensors")
    old = loaded.manifest
    stages = old.metrics.get("accuracy")
    metrics = old.metrics | {"accuracy": (stages if isinstance(stages, dict) else {}) | {"finetuned": after}}
    metrics.pop("missed", None)  # the gates judged other weights
    described = old.model_copy(update={"metrics": metrics, **provenance(session)})
    write_model(target, trained.module, described, session.replay)
    return _result("finetune", session, Change(before, after), trained, watch, target)


def _prune_on(path: Path, settings: Config, watch: Stopwatch, progress: Progress, *, resume: bool) -> TrainResult:
    """Learn a further cut of a pruned file while fine-tuning it; the budget is a share of what it has."""
    with watch.stage("load"):
        session = open_session(settings, "finetune")
        loaded = open_artifact(path, session)
        dense = explicit(loaded.module)
    bench = prepared(bench_of(session, dense, watch))
    with watch.stage("evaluate"):
        before = evaluate(dense, bench.test).accuracy
    learned = learn(bench, before, watch, progress, resume=resume)
    made, old = learned.shrunk, loaded.manifest
    after = cost.count(bench.coupling, made.cut.plan.kept)
    first = {name: {d: torch.tensor(at) for d, at in dims.items()} for name, dims in old.kept.items()}
    kept = composed(first, made.cut.kept)
    metrics = {
        "accuracy": asdict(made.accuracy),
        "criterion": learned.scores.criterion,
        "params": float(after.params),
        "macs": float(after.macs),
        "max_relative_error": made.cut.proof.max_relative_error,
    }
    described = old.model_copy(
        update={
            "kept": {n: {d: at.tolist() for d, at in dims.items()} for n, dims in kept.items()},
            "plan": {**old.plan, **made.cut.plan.kept},
            "metrics": metrics,
            "explicit_attention": old.explicit_attention or any(isinstance(m, Attention) for m in dense.modules()),
            **provenance(session),
        }
    )
    target = Path(settings.run.output or session.folder / "finetuned.safetensors")
    write_model(target, made.module, described, session.replay)
    return TrainResult(
        command="finetune",
        model=session.model_name,
        data=session.data_name,
        accuracy=Change(before, made.accuracy.final),
        epochs=learned.trace.epochs,
        seconds=watch.seconds,
        artifact=str(target),
        joint=learned.trace,
    )


def _train(
    session: Session, module: nn.Module, section: str, watch: Stopwatch, progress: Progress, *, resume: bool
) -> Trained:
    with watch.stage("train"):
        return train(
            module,
            session.splits.train,
            session.batches(session.splits.validation),
            session.recipe(section),
            seed=session.config.run.seed,
            origin=session.data_identity,
            augment=session.augment(),
            auxiliary=uncalled(module, session.example()) if section == "finetune" else (),
            checkpoint=session.folder / f"{section}.ckpt",
            resume=resume,
            progress=progress,
        )


def _result(
    command: Literal["train", "finetune"],
    session: Session,
    accuracy: Change,
    trained: Trained,
    watch: Stopwatch,
    path: Path,
) -> TrainResult:
    return TrainResult(
        command=command,
        model=session.model_name,
        data=session.data_name,
        accuracy=accuracy,
        epochs=[asdict(epoch) for epoch in trained.history],
        seconds=watch.seconds,
        artifact=str(path),
    )
