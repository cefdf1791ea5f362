"""Scores and a budget -> a smaller network, measured after every stage."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from infprune.distillation import distill
from infprune.evaluation import evaluate
from infprune.forward import uncalled
from infprune.pipeline import cutting
from infprune.pipeline.bench import Bench
from infprune.pipeline.results import Accuracy
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget
from infprune.training import train


@dataclass(frozen=True)
class Order:
    """What is asked: the budget, the seed of calibration and fine-tuning, whether to fine-tune and where it is kept."""

    budget: Budget
    seed: int
    finetune: bool
    checkpoint: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Shrunk:
    """The smaller network, how it was cut, and the test accuracies on the way."""

    module: nn.Module
    cut: cutting.Cut
    accuracy: Accuracy


def shrink(
    bench: Bench,
    scores: ChannelScores,
    dense_accuracy: float,
    order: Order,
    watch: Stopwatch,
    progress: Progress,
) -> Shrunk:
    """Select, cut and prove; compensate, distil and fine-tune as configured; measure after each."""
    session = bench.session
    with watch.stage("cut"):
        made = cutting.cut(
            bench.dense, bench.coupling, bench.layers, scores, order.budget, bench.limits, session.example(8)
        )
    small = made.module
    with watch.stage("evaluate"):
        accuracy = Accuracy(dense_accuracy, evaluate(small, bench.test).accuracy)
    if bench.correction is not None:
        calibration = session.calibration(order.seed)
        with watch.stage("compensate"):
            small = cutting.compensate(
                bench.dense, made, bench.coupling, bench.correction, calibration, bench.validation, progress
            )
        with watch.stage("evaluate"):
            accuracy = replace(accuracy, compensated=evaluate(small, bench.test).accuracy)
        if bench.distillation is not None:
            with watch.stage("distill"):
                followed = distilled(bench, small, order.seed, progress)
            with watch.stage("evaluate"):
                same = followed is small
                known = accuracy.compensated if same else evaluate(followed, bench.test).accuracy
            small, accuracy = followed, replace(accuracy, distilled=known)
    if order.finetune:
        with watch.stage("finetune"):
            small = _finetuned(bench, small, order, progress)
        with watch.stage("evaluate"):
            accuracy = replace(accuracy, finetuned=evaluate(small, bench.test).accuracy)
    return Shrunk(small, made, accuracy)


def distilled(bench: Bench, small: nn.Module, seed: int, progress: Progress) -> nn.Module:
    """A compensated network whose weights follow the dense one's logits, as configured."""
    how = bench.distillation
    if how is None:
        return small
    samples, auxiliary = bench.session.calibration_samples(seed), uncalled(small, bench.session.example())
    return distill(
        bench.dense, small, samples, bench.validation, how, seed=seed, auxiliary=auxiliary, progress=progress
    )


def _finetuned(bench: Bench, small: nn.Module, order: Order, progress: Progress) -> nn.Module:
    session = bench.session
    return train(
        small,
        session.splits.train,
        bench.validation,
        session.recipe("finetune"),
        seed=order.seed,
        origin=session.data_identity,
        augment=session.augment(),
        auxiliary=uncalled(small, session.example()),
        checkpoint=order.checkpoint,
        resume=order.resume,
        progress=progress,
    ).module
