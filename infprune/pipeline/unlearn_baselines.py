"""What an unlearned network is held against: fine-tuning on the same labels, and training anew."""

import copy

import torch
from torch import nn

from infprune.data.dataset import Changed, Part
from infprune.evaluation import contrast
from infprune.forward import uncalled
from infprune.pipeline.forgetting import Exam
from infprune.pipeline.session import open_model
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.unlearn_bench import Workbench, staying
from infprune.pipeline.unlearn_results import Quality, Retrained
from infprune.progress import Progress
from infprune.training import train

RETRAINING = "retrain.ckpt"


def finetuned(
    bench: Workbench, original: nn.Module, test: Exam, watch: Stopwatch, progress: Progress, *, resume: bool
) -> Quality:
    """The network fine-tuned on as many samples that stay as the Hessian sees, and on the labels wanted instead."""
    choice, task, session = bench.session.config.unlearn, bench.task, bench.session
    kept = staying(bench, choice.samples)
    at = task.rest[kept.indices]
    train_on = session.splits.train if task.wanted is None else Changed(session.splits.train, task.wanted)
    at = at if task.wanted is None else torch.cat([at, task.forget])
    module = copy.deepcopy(original)
    with watch.stage("fine-tune"):
        trained = train(
            module,
            Part(train_on, at),
            session.batches(session.splits.validation),
            session.recipe("finetune"),
            seed=session.config.run.seed,
            origin=f"{session.data_identity} {task.identity}",
            augment=session.augment(),
            auxiliary=uncalled(module, session.example()),
            checkpoint=session.folder / "finetune.ckpt",
            resume=resume,
            progress=progress,
        )
    return test.taken(trained.module, session)


def retrained(
    bench: Workbench, original: nn.Module, test: Exam, watch: Stopwatch, progress: Progress, *, resume: bool
) -> Retrained:
    """The network trained anew on what should have been trained on."""
    session, task = bench.session, bench.task
    module = open_model(session, trained=False)
    with watch.stage("retrain"):
        trained = train(
            module,
            task.corrected,
            session.batches(session.splits.validation),
            session.recipe("train"),
            seed=session.config.run.seed,
            origin=f"{session.data_identity} {task.identity}",
            augment=session.augment(),
            checkpoint=session.folder / RETRAINING,
            resume=resume,
            progress=progress,
        )
    anew = trained.module
    there, here, was = (bench.space.values(m) for m in (anew, bench.module, original))
    seen = contrast(bench.module, anew, session.batches(session.splits.test))
    seconds = watch.seconds
    return Retrained(
        test.taken(anew, session),
        float((here - there).norm() / (was - there).norm().clamp_min(torch.finfo(was.dtype).tiny)),
        seen.agreement,
        seen.kl,
        seconds["retrain"],
        (seconds["select"] + seconds["unlearn"]) / max(seconds["retrain"], 1e-3),
    )
