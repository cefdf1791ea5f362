"""Apply an unlearning method again and again, each time as far as validation prefers."""

from dataclasses import asdict, dataclass
from typing import Any

from safetensors.torch import save
from torch import Tensor

from infprune.config import Config
from infprune.curvature import CURVATURES
from infprune.errors import InputError
from infprune.files import atomic_write
from infprune.pipeline.forgetting import Exam
from infprune.pipeline.store import Store
from infprune.pipeline.unlearn_bench import Workbench, drawn, pool
from infprune.pipeline.unlearn_results import Application, Quality, Trial
from infprune.pipeline.unlearn_resume import APPLICATIONS, identity, taken_up, trials_of, valid, weights_file
from infprune.progress import Bar, Progress
from infprune.solvers.spectrum import largest
from infprune.units import GIB
from infprune.unlearning import METHODS
from infprune.unlearning.contract import Linearised, Solving
from infprune.unlearning.lengths import searched
from infprune.unlearning.objective import Forgetting

AUTO = 3e-2  # `damping: auto`: this share of the curvature's largest |eigenvalue|


@dataclass(frozen=True)
class Walk:
    """Where the applications led, and what was tried on the way."""

    applications: list[Application]
    trials: list[Trial]
    start: Quality
    damping: float


def walked(bench: Workbench, positions: Tensor, progress: Progress, *, resume: bool) -> Walk:
    """Apply the method again and again from where it led, each time with the length that validation prefers."""
    settings, session = bench.session.config, bench.session
    choice = settings.unlearn
    exam = bench.task.exam("validation")
    start = exam.judged(bench.module, session)
    store = Store(session.folder / APPLICATIONS, identity(bench), resume=resume, valid=valid)
    best, applications, trials, damping = start.score, [], [], 0.0
    steps = choice.applications * (2 + len(choice.lengths))
    with progress.bar("unlearn", steps) as bar:
        for number in range(1, choice.applications + 1):
            found = taken_up(bench, store, number) or _applied(bench, positions, exam, number, best, bar)
            store.put(str(number), found)
            damping = found["damping"]
            tried = trials_of(found)
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
        atomic_write(weights_file(bench, number), save({"theta": bench.space.values(bench.module).cpu()}))
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
    risk = bench.objective(drawn(pool(task), choice.samples, seed))
    H = CURVATURES[choice.curvature](risk, None, memory)
    theta = bench.space.values(bench.module)
    g = _raising(bench, theta) if number == 1 else -_slope(bench, theta) / task.share
    damping = AUTO * largest(H, 20, 0.02) if choice.damping == "auto" else float(choice.damping)
    solving = Solving(solver_of(settings), damping, choice.rtol, choice.max_iterations)
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
    learned = bench.objective(drawn(bench.task.learned(), count, seed))
    return Forgetting(learned, None if instead is None else bench.objective(drawn(instead, count, seed)).batches)


def _slope(bench: Workbench, theta: Tensor) -> Tensor:
    """The gradient of R - p q: of the loss at the wanted labels, or of that of the rest times its share."""
    task, choice = bench.task, bench.session.config.unlearn
    some = drawn(task.aim, choice.gradients, bench.session.config.run.seed)
    return (1.0 if task.wanted is not None else 1 - task.share) * bench.objective(some).gradient(theta)


def solver_of(settings: Config) -> str:
    """The solver that `auto` stands for, or the one that is configured."""
    return "lsmr" if settings.unlearn.solver == "auto" else settings.unlearn.solver
