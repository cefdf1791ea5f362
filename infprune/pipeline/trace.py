"""`infprune trace`: two stages, and the influence of the first one's samples on what the second one predicts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from safetensors.torch import save
from torch import Tensor, nn

from infprune.config import Config
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator, check_dense
from infprune.curvature.space import ParameterSpace
from infprune.data.classes import all_labels, original
from infprune.data.dataset import Part, Samples, gather
from infprune.data.loaders import subset
from infprune.errors import ConfigError
from infprune.evaluation import evaluate
from infprune.files import atomic_writes
from infprune.forward import Inputs, logits
from infprune.models.checkpoint import plain_tensors
from infprune.multistage.influence import Solve, identity, solving, swept
from infprune.multistage.layers import owned
from infprune.multistage.sharing import Sharing, sharing
from infprune.pipeline.agreement import agreement
from infprune.pipeline.instrument import DENSE_PARAMETERS, fitted
from infprune.pipeline.memory import within_memory
from infprune.pipeline.pictures import Picture, picture
from infprune.pipeline.stages import Name, StageData, Stages, open_stages
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.trace_results import SolveRow, StageRow, TestRow, Traced, TraceResult, TraceRow
from infprune.progress import Bar, Progress, told
from infprune.solvers.cg import ConjugateGradients
from infprune.solvers.contract import Solution
from infprune.solvers.direct import LDL
from infprune.solvers.lsmr import LSMR
from infprune.solvers.normal_cg import NormalCG


@dataclass(frozen=True)
class Influence:
    """Of every pretraining sample in order: `values` (Eq. 9) and the `control` with identities, `(m,)` float64."""

    values: Tensor
    control: Tensor
    solves: list[SolveRow]


@dataclass(frozen=True)
class Lenses:
    """Both stages as objectives, in one number format, and how their parameters are related."""

    pretrain: Objective
    finetune: Objective
    parts: Sharing
    dtype: torch.dtype

    def batches(self, data: StageData, samples: Samples) -> list[tuple[Inputs, Tensor]]:
        """Samples in this number format."""
        loader = data.session.batches(samples, data.session.config.data.batch_size)
        return [(fitted(x, self.dtype), y) for x, y in loader]


@within_memory
def run(settings: Config, progress: Progress) -> Traced:
    """Train or load both stages, sweep back from the traced predictions, and rank the pretraining samples.

    Raises:
        ConfigError: a test sample that does not exist, or a curvature that cannot be solved with.
    """
    watch = Stopwatch()
    stages = open_stages(settings, "trace", watch, progress)
    chosen = traced(stages, settings.trace.test)
    lenses = objectives(stages)
    found = influence(stages, lenses, chosen, watch, progress)
    with watch.stage("report"):
        rows = ranked(stages, found, len(chosen))
        top = settings.trace.top
        shown = rows if len(rows) <= 2 * top else [*rows[:top], *rows[-top:]]
        result = _result(stages, lenses, found, chosen, shown, watch)
        pictures = _pictures(stages.pretrain, {row.sample for row in shown})
        single = picture(chosen[0][0]) if settings.trace.test is not None else None
    written = [("pretrain", stages.first), ("finetune", stages.second)]
    given = {"pretrain": settings.trace.pretrain_checkpoint, "finetune": settings.trace.finetune_checkpoint}
    weights = {
        stages.session.folder / f"{name}.safetensors": save(plain_tensors(module.float()))
        for name, module in written
        if given[name] is None
    }
    atomic_writes({**weights, **stages.session.replay})
    return Traced(replace(result, seconds=watch.seconds), rows, pictures, single)


def traced(stages: Stages, index: int | None) -> Samples:
    """The predictions to trace.

    Raises:
        ConfigError: there is no such test sample.
    """
    test = stages.finetune.test
    if index is None:
        return test
    if index >= len(test):
        raise ConfigError(
            f"trace.test: expected a sample of the second stage's test part, 0 to {len(test) - 1}, got {index}"
        )
    return Part(test, torch.tensor([index]))


def objectives(stages: Stages) -> Lenses:
    """The losses that the stages minimised; small networks in float64."""
    session, first, second = stages.session, stages.first, stages.second
    small = ParameterSpace.of(first).size <= DENSE_PARAMETERS and session.device.type != "mps"
    dtype = torch.float64 if small else torch.float32
    made = []
    for module, data, recipe in ((first, stages.pretrain, "train"), (second, stages.finetune, "finetune")):
        module.to(dtype).eval()
        decay = getattr(session.config, recipe).weight_decay
        made.append((Objective(module, ParameterSpace.of(module), [], ridge=decay), data))
    parts = sharing(
        made[0][0].space, made[1][0].space, owned(second, stages.head), owned(second, stages.frozen)
    )  # fmt: skip
    lenses = Lenses(made[0][0], made[1][0], parts, dtype)
    return replace(
        lenses,
        pretrain=lenses.pretrain.on(lenses.batches(stages.pretrain, stages.pretrain.train)),
        finetune=lenses.finetune.on(lenses.batches(stages.finetune, stages.finetune.train)),
    )


def influence(stages: Stages, lenses: Lenses, chosen: Samples, watch: Stopwatch, progress: Progress) -> Influence:
    """One sweep back from the summed loss of the chosen predictions, then a dot product per pretraining sample.

    Raises:
        ConfigError: a curvature cannot be solved with.
    """
    choice, G, F = stages.session.config.trace, lenses.pretrain, lenses.finetune
    sampled = subset(stages.pretrain.train, choice.hessian_samples, stages.session.config.run.seed)
    curved = G.on(lenses.batches(stages.pretrain, sampled))
    test = replace(F.on(lenses.batches(stages.finetune, chosen)), ridge=0.0)
    with watch.stage("solve"):
        slopes = len(chosen) * test.gradient(F.theta)[:, None]
        most = 2 * choice.max_iterations + 3
        with progress.bar("second stage", most) as later, progress.bar("first stage", most) as earlier:
            ways = (_way(stages, "pretrain", earlier), _way(stages, "finetune", later))
            found = swept(curved, F, slopes, lenses.parts, choice.alpha, ways)
        control = swept(curved, F, slopes, lenses.parts, choice.alpha, (identity, identity))
    rows = [_solved(stages, "pretrain", found.pretrain, curved, lenses.parts.pretrain.size)]
    freed = sum(n for name, n in zip(F.space.names, F.space.sizes, strict=True) if name in lenses.parts.free)
    rows.append(_solved(stages, "finetune", found.finetune, F, freed))
    V = torch.cat([found.direction, control.direction], 1)
    with watch.stage("influence"), progress.bar("influence", len(list(G.batches))) as bar:
        values = torch.cat([one.slopes(G.theta, V) for one in told(G.single(), bar)]).cpu().double()
    return Influence(values[:, 0], values[:, 1], rows)


def ranked(stages: Stages, found: Influence, tests: int) -> list[TraceRow]:
    """Every pretraining sample, the largest influence first."""
    data, count = stages.pretrain, len(found.values)
    y = all_labels(data.train)
    order = found.values.argsort(descending=True, stable=True).tolist()
    values, control, labels = found.values.tolist(), found.control.tolist(), y.tolist()
    return [
        TraceRow(
            rank,
            original(data.train, i),
            data.labels[labels[i]],
            values[i],
            -values[i] / (count * tests),
            control[i],
        )
        for rank, i in enumerate(order, 1)
    ]


def _way(stages: Stages, name: Name, bar: Bar) -> Solve:
    choice = stages.session.config.trace
    damping = getattr(choice, f"{name}_damping")
    makes: dict[str, Callable[[], Solve]] = {
        "normal-cg": lambda: solving(NormalCG(damping, choice.rtol, choice.max_iterations)),
        "lsmr": lambda: solving(LSMR(choice.rtol, choice.max_iterations, math.sqrt(damping))),
        "cg": lambda: solving(ConjugateGradients(choice.rtol, choice.max_iterations), damping),
        "ldl": lambda: solving(LDL(), damping),
    }
    made = makes[choice.solver]()

    def solve(operator: LinearOperator, rhs: Tensor) -> Solution:
        if choice.solver == "ldl":
            check_dense(*operator.shape, torch.float64, advice="use trace.solver=normal-cg")
        found = made(_Told(operator, bar), rhs)
        if not found.outcome.usable:
            raise ConfigError(
                f"the curvature of the {name} stage is {found.outcome}: {found.message} (trace.{name}_damping, "
                "trace.solver)"
            )
        return found

    return solve


class _Told(LinearOperator):
    """An operator whose products are told."""

    def __init__(self, operator: LinearOperator, bar: Bar) -> None:
        self._operator, self._bar = operator, bar
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def matmat(self, V: Tensor) -> Tensor:
        self._bar.advance()
        return self._operator.matmat(V)


def _solved(stages: Stages, name: Name, found: Solution, objective: Objective, size: int) -> SolveRow:
    choice = stages.session.config.trace
    return SolveRow(
        stage=name,
        solver=choice.solver,
        damping=getattr(choice, f"{name}_damping"),
        samples=objective.samples(),
        parameters=size,
        iterations=found.iterations,
        residual=found.residual,
        outcome=str(found.outcome),
        message=found.message or None,
    )


def _result(
    stages: Stages, lenses: Lenses, found: Influence, chosen: Samples, shown: list[TraceRow], watch: Stopwatch
) -> TraceResult:
    free = lenses.parts.moved
    return TraceResult(
        model=stages.session.model_name,
        case=1 if not free else 2 if set(free) == set(lenses.parts.shared) else 0,
        head=list(stages.head),
        frozen=list(stages.frozen),
        alpha=stages.session.config.trace.alpha,
        stages=[
            _stage("pretrain", stages, stages.pretrain, lenses.pretrain, lenses.pretrain.space.names),
            _stage("finetune", stages, stages.finetune, lenses.finetune, lenses.parts.free),
        ],
        solves=found.solves,
        test=_test(stages, lenses, chosen),
        examples=len(found.values),
        mean_abs=float(found.values.abs().mean()),
        identity_r=agreement(found.control, found.values).r,
        rows=shown,
        seconds=watch.seconds,
        files=[],
        run_dir=str(stages.session.folder),
    )


def _stage(name: Name, stages: Stages, data: StageData, objective: Objective, moved: tuple[str, ...]) -> StageRow:
    theta, space = objective.theta, objective.space
    gradient = objective.gradient(theta)
    inside = torch.cat([space.at(n) for n in moved])
    test = ((fitted(x, theta.dtype), y) for x, y in data.session.batches(data.test))
    return StageRow(
        stage=name,
        data=data.session.data_name,
        labels=list(data.labels),
        samples=len(data.train),
        parameters=space.size,
        trained=len(inside),
        loss=replace(objective, ridge=0.0).value(theta),
        accuracy=evaluate(objective.module, test).accuracy,
        gradient_norm=float(gradient[inside].norm()),
        checkpoint=stages.checkpoints[name],
    )


def _test(stages: Stages, lenses: Lenses, chosen: Samples) -> TestRow:
    data, module = stages.finetune, stages.second
    objective = replace(lenses.finetune.on(lenses.batches(data, chosen)), ridge=0.0)
    loss = objective.value(objective.theta)
    if stages.session.config.trace.test is None:
        return TestRow(len(chosen), loss)
    ((x, y),) = objective.batches
    guess = int(_logits(module, x).argmax(1))
    return TestRow(1, loss, original(chosen, 0), data.labels[int(y)], data.labels[guess])


@torch.no_grad()
def _logits(module: nn.Module, x: Inputs) -> Tensor:
    return logits(module, x)


def _pictures(data: StageData, samples: set[int]) -> dict[int, Picture]:
    found = {}
    for i in range(len(data.train)):
        if (place := original(data.train, i)) in samples:
            seen = picture(gather(data.train, [i])[0][0])
            if seen is not None:
                found[place] = seen
    return found
