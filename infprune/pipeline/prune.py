"""`infprune prune`: the story of the whole run."""

from pathlib import Path

from torch import nn

from infprune import cost, selection
from infprune.artifacts import write_model
from infprune.config import Config
from infprune.coupling.groups import Coupling
from infprune.evaluation import evaluate
from infprune.files import sha256
from infprune.pipeline import cutting
from infprune.pipeline.results import Accuracy, Change, PruneResult, Verified
from infprune.pipeline.score import automatic, budget, limits, measured, rows
from infprune.pipeline.session import Session, manifest, open_coupling, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.training import train


def run(settings: Config, progress: Progress, *, resume: bool = False) -> PruneResult:
    """Score, select, cut, prove, compensate, fine-tune if asked, measure, write."""
    watch, prune = Stopwatch(), settings.prune
    with watch.stage("load"):
        session = open_session(settings, "prune")
        dense = open_model(session)
        test, validation = session.batches(session.splits.test), session.batches(session.splits.validation)
    with watch.stage("coupling"):
        coupling = open_coupling(dense, session)
        layers = selection.prunable(coupling, prune.protect)
    with watch.stage("score"):
        scores = measured(session, dense, layers, progress)
    with watch.stage("cut"):
        made = cutting.cut(
            dense, coupling, layers, scores.values, budget(settings), limits(settings), session.example(8)
        )
        small = made.module
    with watch.stage("evaluate"):
        accuracy = Accuracy(evaluate(dense, test).accuracy, evaluate(small, test).accuracy)
    if prune.compensate != "none":
        with watch.stage("compensate"):
            small = cutting.compensate(
                dense,
                made,
                coupling,
                prune.compensate,
                session.calibration(),
                validation,
                automatic(prune.ls_damping),
                progress,
            )
            accuracy = Accuracy(accuracy.dense, accuracy.cut, evaluate(small, test).accuracy)
    if prune.finetune:
        with watch.stage("finetune"):
            small = _finetuned(session, small, resume=resume, progress=progress)
            accuracy = Accuracy(accuracy.dense, accuracy.cut, accuracy.compensated, evaluate(small, test).accuracy)
    with watch.stage("write"):
        path = Path(settings.run.output or session.folder / "pruned.safetensors")
        session.record()
        _write(path, session, dense, small, coupling, made, accuracy)
    with watch.stage("latency"):
        example = session.example(1)
        latency = Change(cost.latency_ms(dense, example), cost.latency_ms(small, example))
    before, after = cost.count(coupling), cost.count(coupling, made.plan.kept)
    return PruneResult(
        model=session.model_name,
        data=session.data_name,
        criterion=scores.criterion,
        scope=prune.scope,
        compensate=prune.compensate,
        rate=prune.rate,
        rate_achieved=made.plan.rate,
        channels=Change(sum(len(mask) for mask in made.plan.masks.values()), sum(made.plan.kept.values())),
        params=Change(before.params, after.params),
        macs=Change(before.macs, after.macs),
        bytes=Change(before.bytes, after.bytes),
        latency_ms=latency,
        accuracy=accuracy,
        verified=Verified(made.proof.max_relative_error, [f"{name}: {reason}" for name, reason in made.frozen.items()]),
        layers=rows(coupling, scores, made.plan, made.frozen),
        missed=_missed(settings, accuracy),
        seconds=watch.seconds,
        artifact=str(path),
        run_dir=str(session.folder),
    )


def _finetuned(session: Session, small: nn.Module, *, resume: bool, progress: Progress) -> nn.Module:
    return train(
        small,
        session.splits.train,
        session.batches(session.splits.validation),
        session.recipe("finetune"),
        seed=session.config.run.seed,
        origin=session.data_identity,
        augment=session.augment(),
        checkpoint=session.folder / "finetune.ckpt",
        resume=resume,
        progress=progress,
    ).module


def _write(
    path: Path,
    session: Session,
    dense: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    made: cutting.Cut,
    accuracy: Accuracy,
) -> None:
    after = cost.count(coupling, made.plan.kept)
    file = session.config.score.file
    metrics = {
        "accuracy": accuracy.__dict__,
        "rate_achieved": made.plan.rate,
        "params": after.params,
        "macs": after.macs,
        "max_relative_error": made.proof.max_relative_error,
        "missed": _missed(session.config, accuracy),
    }
    described = manifest(
        session,
        dense,
        made.kept,
        scores_sha256=sha256(file) if file else None,
        plan=made.plan.kept,
        metrics=metrics,
    )
    write_model(path, small, described)


def _missed(settings: Config, accuracy: Accuracy) -> list[str]:
    """The quality gates that the final accuracy misses."""
    missed = []
    floor, drop = settings.prune.min_accuracy, settings.prune.max_drop
    if floor is not None and accuracy.final < floor:
        missed.append(f"accuracy {accuracy.final:.4f} is below --min-accuracy {floor}")
    if drop is not None and accuracy.dense - accuracy.final > drop:
        missed.append(f"accuracy dropped by {accuracy.dense - accuracy.final:.4f}, more than --max-drop {drop}")
    return missed
