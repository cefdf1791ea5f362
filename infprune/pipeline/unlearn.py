"""`infprune unlearn`: change chosen weights so that a network forgets, and measure what it still knows."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infprune.artifacts import Manifest, write_model
from infprune.config import Config
from infprune.files import exists
from infprune.pipeline.memory import within_memory
from infprune.pipeline.session import manifest, provenance
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.unlearn_baselines import RETRAINING, finetuned, retrained
from infprune.pipeline.unlearn_bench import Workbench, open_workbench, pool
from infprune.pipeline.unlearn_results import Quality, SelectedRow, UnlearnResult
from infprune.pipeline.unlearn_resume import APPLICATIONS
from infprune.pipeline.unlearn_selection import selected_weights
from infprune.pipeline.unlearn_steps import solver_of, walked
from infprune.progress import Progress
from infprune.unlearning import WHOLE


@within_memory
def run(path: Path | None, settings: Config, progress: Progress, *, resume: bool) -> UnlearnResult:
    """Forget, measure, and write the changed network."""
    watch = Stopwatch()
    with watch.stage("load"):
        bench = open_workbench(path, settings)
    session, task, test = bench.session, bench.task, bench.task.exam("test")
    taken_up = resume and any(exists(session.folder / name) for name in (APPLICATIONS, RETRAINING))
    before, original = test.taken(bench.module, session), copy.deepcopy(bench.module)
    with watch.stage("select"):
        selected = None if settings.unlearn.method in WHOLE else selected_weights(bench)
    positions = torch.arange(bench.space.size) if selected is None else selected.positions
    with watch.stage("unlearn"):
        walk = walked(bench, positions, progress, resume=resume)
    after = test.taken(bench.module, session)
    tuned = finetuned(bench, original, test, watch, progress, resume=resume) if settings.unlearn.finetune else None
    anew = retrained(bench, original, test, watch, progress, resume=resume) if settings.unlearn.retrain else None
    if anew is not None and taken_up:  # the clock does not know what earlier processes took
        anew = replace(anew, time_ratio=None)
    target = Path(settings.run.output or session.folder / "unlearned.safetensors")
    write_model(target, bench.module, _manifest(bench, after), session.replay)
    return UnlearnResult(
        model=session.model_name,
        data=session.data_name,
        forget=str(settings.unlearn.forget),
        method=settings.unlearn.method,
        selection=None if selected is None else settings.unlearn.selection,
        ratio=1.0 if selected is None else settings.unlearn.ratio,
        solver=solver_of(settings),
        damping=walk.damping,
        parameters=bench.space.size,
        parameters_changed=len(positions) if any(a.length for a in walk.applications) else 0,
        samples={
            "forget": len(task.forget),
            "kept": len(task.rest),
            "hessian": min(settings.unlearn.samples, len(pool(task))),
        },
        unseen=task.unseen,
        before=before,
        after=after,
        finetuned=tuned,
        retrained=anew,
        validation=walk.start,
        applications=walk.applications,
        trials=walk.trials,
        layers=[]
        if selected is None
        else [SelectedRow(n, len(f), selected.widths[n]) for n, f in selected.filters.items()],
        seconds=watch.seconds,
        artifact=str(target),
        files=[],
        run_dir=str(session.folder),
    )


def _manifest(bench: Workbench, after: Quality) -> Manifest:
    """What the file says about itself."""
    told = f"{bench.session.config.unlearn.forget} by {bench.session.config.unlearn.method}"
    if bench.described is None:
        metrics: dict[str, Any] = {"accuracy": {"dense": after.accuracy}, "unlearned": told}
        return manifest(bench.session, bench.module, {}, scores_sha256=None, plan={}, metrics=metrics)
    old = bench.described
    stages = old.metrics.get("accuracy")
    known = stages if isinstance(stages, dict) else {}
    metrics = old.metrics | {"accuracy": known | {"finetuned": after.accuracy}, "unlearned": told}
    metrics.pop("missed", None)  # the gates judged other weights
    return old.model_copy(update={"metrics": metrics, **provenance(bench.session)})
