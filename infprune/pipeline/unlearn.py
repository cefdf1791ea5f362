"""`infprune unlearn`: change chosen weights so that a network forgets, and measure what it still knows."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from infprune import __version__
from infprune.artifacts import Manifest, write_model
from infprune.config import Config
from infprune.coupling.couple import couple
from infprune.curvature import CURVATURES
from infprune.curvature.objective import Objective
from infprune.curvature.operator import GIB
from infprune.curvature.products import filters
from infprune.curvature.space import ParameterSpace
from infprune.data.dataset import Changed, Part, Samples
from infprune.data.loaders import Batches
from infprune.errors import ArchitectureError, InputError
from infprune.evaluation import contrast
from infprune.files import atomic_write, exists
from infprune.forward import uncalled
from infprune.models.checkpoint import digest
from infprune.pipeline.artifact import open_artifact
from infprune.pipeline.forgetting import Exam, Task, open_task
from infprune.pipeline.memory import within_memory
from infprune.pipeline.session import Session, manifest, open_model, open_session, provenance
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.store import Store
from infprune.pipeline.unlearn_results import Application, Quality, Retrained, SelectedRow, Trial, UnlearnResult
from infprune.progress import Bar, Progress
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import collect, needs_of
from infprune.scores.measure import score as channel_scores
from infprune.solvers.spectrum import largest
from infprune.training import train
from infprune.unlearning import METHODS, WHOLE
from infprune.unlearning.activity import activity, filtered
from infprune.unlearning.contract import Linearised, Solving
from infprune.unlearning.lengths import searched
from infprune.unlearning.objective import Forgetting
from infprune.unlearning.selection import SELECTIONS, Chosen, Measured, chosen

AUTO = 3e-2  # `damping: auto`: this share of the curvature's largest |eigenvalue|
APPLICATIONS, RETRAINING = "applications.json", "retrain.ckpt"  # what `--resume` takes up


@dataclass(frozen=True)
class Workbench:
    """What an unlearning run works on; `described`: the manifest of a file that was given."""

    session: Session
    task: Task
    module: nn.Module
    space: ParameterSpace
    described: Manifest | None

    def batches(self, samples: Samples) -> Batches:
        """Batches of a size to differentiate."""
        return self.session.batches(samples, self.session.config.data.batch_size)

    def objective(self, samples: Samples) -> Objective:
        """The mean loss of some samples."""
        return Objective(self.module, self.space, list(self.batches(samples)))


@dataclass(frozen=True)
class Walk:
    """Where the applications led, and what was tried on the way."""

    applications: list[Application]
    trials: list[Trial]
    start: Quality
    damping: float


@within_memory
def run(path: Path | None, settings: Config, progress: Progress, *, resume: bool) -> UnlearnResult:
    """Forget, measure, and write the changed network."""
    watch = Stopwatch()
    with watch.stage("load"):
        bench = _open(path, settings)
    session, task, test = bench.session, bench.task, bench.task.exam("test")
    taken_up = resume and any(exists(session.folder / name) for name in (APPLICATIONS, RETRAINING))
    before, original = test.taken(bench.module, session), copy.deepcopy(bench.module)
    with watch.stage("select"):
        selected = None if settings.unlearn.method in WHOLE else _selected(bench)
    positions = torch.arange(bench.space.size) if selected is None else selected.positions
    with watch.stage("unlearn"):
        walk = _walked(bench, positions, progress, resume=resume)
    after = test.taken(bench.module, session)
    tuned = _finetuned(bench, original, test, watch, progress, resume=resume) if settings.unlearn.finetune else None
    anew = _retrained(bench, original, test, watch, progress, resume=resume) if settings.unlearn.retrain else None
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
        solver=_solver(settings),
        damping=walk.damping,
        parameters=bench.space.size,
        parameters_changed=len(positions) if any(a.length for a in walk.applications) else 0,
        samples={
            "forget": len(task.forget),
            "kept": len(task.rest),
            "hessian": min(settings.unlearn.samples, len(_pool(task))),
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


def _open(path: Path | None, settings: Config) -> Workbench:
    session = open_session(settings, "unlearn")
    task = open_task(session)
    task.exam("validation")  # refuse what cannot be judged before work begins
    if path is None:
        module, described = open_model(session), None
    else:
        loaded = open_artifact(path, session)
        module, described = loaded.module, loaded.manifest
        if settings.unlearn.retrain and described.kept:
            raise ArchitectureError(
                f"{path} is a pruned network: retraining from scratch is for whole ones; drop --retrain"
            )
    return Workbench(session, task.aimed(module), module, ParameterSpace.of(module), described)


# --- which weights ----------------------------------------------------------------------------------------------------


def _selected(bench: Workbench) -> Chosen:
    """Measure filters on as many forgotten and kept samples as the Hessian gets, and choose."""
    choice, seed = bench.session.config.unlearn, bench.session.config.run.seed
    how, names = SELECTIONS[choice.selection], filtered(bench.module)
    parts = (_some(bench.task.learned(), choice.samples, seed), _rest(bench, choice.samples))
    forget, rest = (activity(bench.module, names, bench.batches(p)) for p in parts)
    run = [n for n in names if n in forget.activation]
    priced = tuple(_influence(bench, p) for p in parts) if how.statistic == "influence" else ({}, {})
    measured = Measured(forget, rest, (priced[0], priced[1]), seed)
    return chosen(how, bench.module, bench.space, run, choice.ratio, choice.threshold, measured)


def _influence(bench: Workbench, samples: Samples) -> dict[str, Tensor]:
    """Channel influence on some samples, by the module that makes the channels."""
    coupling = couple(bench.module, bench.session.example())
    needs = needs_of(["influence"])
    statistics = collect(bench.module, coupling.prunable, bench.batches(samples), needs, seed=0, draws=1)
    found = channel_scores("influence", ScoringInputs(bench.module, coupling.prunable, statistics)).values
    by_module = {}
    for layer in coupling.prunable:
        for s in filters(layer):
            if s.index.shape[1] == 1:
                value = torch.zeros(layer.size, dtype=torch.float64)
                value[s.index[:, 0]] = found[layer.name]
                by_module[s.tensor.rpartition(".")[0]] = value
    return by_module


# --- the applications -------------------------------------------------------------------------------------------------


def _walked(bench: Workbench, positions: Tensor, progress: Progress, *, resume: bool) -> Walk:
    """Apply the method again and again from where it led, each time with the length that validation prefers."""
    settings, session = bench.session.config, bench.session
    choice = settings.unlearn
    exam = bench.task.exam("validation")
    start = exam.judged(bench.module, session)
    store = Store(session.folder / APPLICATIONS, _identity(bench), resume=resume, valid=_valid)
    best, applications, trials, damping = start.score, [], [], 0.0
    steps = choice.applications * (2 + len(choice.lengths))
    with progress.bar("unlearn", steps) as bar:
        for number in range(1, choice.applications + 1):
            found = _resumed(bench, store, number) or _applied(bench, positions, exam, number, best, bar)
            store.put(str(number), found)
            damping = found["damping"]
            tried = _trials(found)
            trials += tried
            applications.append(Application(**found["application"]))
            if not any(t.chosen for t in tried):
                break
            best = max(t.score for t in tried)
    return Walk(applications, trials, start.quality, damping)


def _applied(bench: Workbench, positions: Tensor, exam: Exam, number: int, best: float, bar: Bar) -> dict[str, Any]:
    """One application: the direction, the lengths, the best one taken if it is better than staying."""
    choice, session = bench.session.config.unlearn, bench.session
    near = _near(bench, positions, number)
    bar.advance(f"application {number}: Hessian")
    shift = METHODS[choice.method](near)
    bar.advance(f"application {number}: {shift.solution.outcome}")
    theta, trials = bench.space.values(bench.module), dict[float, Trial]()

    def tried(length: float) -> float | None:
        bench.space.load(bench.module, theta + length * near.share * shift.value)
        try:
            judged = exam.judged(bench.module, session)
        except InputError:  # so far away that the outputs overflow
            bar.advance(f"application {number}, length {length:g}: not finite")
            return None
        bar.advance(f"application {number}, length {length:g}: kept {judged.quality.kept:.4f}")
        trials[length] = Trial(number, length, judged.quality, judged.score, chosen=False)
        return trials[length].score

    scores = searched(tried, choice.lengths, best)
    length = max(scores, key=scores.__getitem__, default=0.0)
    length = length if scores.get(length, best) > best else 0.0
    move = length * near.share * shift.value
    bench.space.load(bench.module, theta + move)
    if length:
        atomic_write(_weights(bench, number), save({"theta": bench.space.values(bench.module).cpu()}))
    found, s = [asdict(trials[at]) | {"chosen": at == length} for at in scores], shift.solution
    made = Application(str(s.outcome), s.iterations, s.residual, s.message, length, float(move.norm()))
    return {"application": asdict(made), "trials": found, "damping": near.solving.damping}


def _near(bench: Workbench, positions: Tensor, number: int) -> Linearised:
    """The losses to second order where the network is now. The Hessian is of training samples.

    Theory takes the slope of the training loss R for zero, as at its minimum. That ends with the first change: from
    the second on p g is what is left of the slope of R - p q, so that each is a Newton step towards its minimum.
    """
    settings, task, seed = bench.session.config, bench.task, bench.session.config.run.seed
    choice, memory = settings.unlearn, int(settings.influence.memory * GIB)
    risk = bench.objective(_some(_pool(task), choice.samples, seed))
    H = CURVATURES[choice.curvature](risk, None, memory)
    theta = bench.space.values(bench.module)
    g = _raising(bench, theta) if number == 1 else -_slope(bench, theta) / task.share
    damping = AUTO * largest(H, 20, 0.02) if choice.damping == "auto" else float(choice.damping)
    solving = Solving(_solver(settings), damping, choice.rtol, choice.max_iterations)
    K = None
    if choice.method == "second-order":
        K = _forgetting(bench, choice.samples).hessian(theta, memory)
    return Linearised(H, g, positions.to(theta.device), task.share, solving, K)


def _raising(bench: Workbench, theta: Tensor) -> Tensor:
    """The gradient of q."""
    return _forgetting(bench, bench.session.config.unlearn.gradients).gradient(theta)


def _forgetting(bench: Workbench, count: int | None) -> Forgetting:
    """The objective on as many samples to forget, the same with either label."""
    seed, instead = bench.session.config.run.seed, bench.task.instead()
    learned = bench.objective(_some(bench.task.learned(), count, seed))
    return Forgetting(learned, None if instead is None else bench.objective(_some(instead, count, seed)).batches)


def _slope(bench: Workbench, theta: Tensor) -> Tensor:
    """The gradient of R - p q: of the loss at the wanted labels, or of that of the rest times its share."""
    task, choice = bench.task, bench.session.config.unlearn
    some = _some(task.aim, choice.gradients, bench.session.config.run.seed)
    return (1.0 if task.wanted is not None else 1 - task.share) * bench.objective(some).gradient(theta)


def _pool(task: Task) -> Samples:
    """The training samples that the Hessian is of: as they should have been learned, or as they were."""
    corrected = task.session.config.unlearn.hessian_of == "corrected"
    return task.aim if corrected else task.session.splits.train


def _some(samples: Samples, count: int | None, seed: int) -> Samples:
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return Part(samples, order[:count])


def _rest(bench: Workbench, count: int) -> Samples:
    return _some(Part(bench.session.splits.train, bench.task.rest), count, bench.session.config.run.seed)


def _solver(settings: Config) -> str:
    return "lsmr" if settings.unlearn.solver == "auto" else settings.unlearn.solver


def _weights(bench: Workbench, number: int) -> Path:
    return bench.session.folder / f"application-{number}.safetensors"


def _resumed(bench: Workbench, store: Store, number: int) -> dict[str, Any] | None:
    """A finished application; the weights it led to are loaded."""
    found: dict[str, Any] | None = store.get(str(number))
    path = _weights(bench, number)
    if found is None or (found["application"]["length"] and not path.is_file()):
        return None
    if found["application"]["length"]:
        try:
            theta = load_file(path)["theta"]
            bench.space.load(bench.module, theta.to(bench.space.values(bench.module)))
        except Exception as error:  # whatever a damaged file raises
            raise InputError(f"cannot resume from {path}: it is damaged; delete it to start over") from error
    return found


def _trials(found: Mapping[str, Any]) -> list[Trial]:
    return [Trial(**t | {"quality": Quality(**t["quality"])}) for t in found["trials"]]


def _valid(value: Any) -> bool:
    """Whether a value that was read back is what `_applied` tells."""
    try:
        made = Application(**value["application"])
        numbers = [value["damping"], made.length, made.norm, made.residual, made.iterations]
        numbers += [v for t in _trials(value) for v in (t.length, t.score, t.quality.kept, t.quality.membership)]
    except (KeyError, TypeError, AttributeError):
        return False
    return all(type(v) in (int, float) for v in numbers)


def _identity(bench: Workbench) -> str:
    settings = bench.session.config.model_dump()
    content = {key: settings[key] for key in ("model", "unlearn")} | {"seed": settings["run"]["seed"]}
    for key in ("finetune", "retrain", "forget"):  # what is measured beside it; a file may say something else by now
        content["unlearn"].pop(key)
    content |= {"data": bench.session.data_identity, "forget": bench.task.identity, "weights": digest(bench.module)}
    content["versions"] = [__version__, torch.__version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- what it is held against ------------------------------------------------------------------------------------------


def _finetuned(
    bench: Workbench, original: nn.Module, test: Exam, watch: Stopwatch, progress: Progress, *, resume: bool
) -> Quality:
    """The network fine-tuned on as many samples that stay as the Hessian sees, and on the labels wanted instead."""
    choice, task, session = bench.session.config.unlearn, bench.task, bench.session
    kept = _some(Part(session.splits.train, task.rest), choice.samples, session.config.run.seed)
    assert isinstance(kept, Part)
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


def _retrained(
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
