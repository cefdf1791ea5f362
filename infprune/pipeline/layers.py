"""`infprune layers`: the influence of each layer as a group (MU section 5.2)."""

from fnmatch import fnmatchcase

import torch

from infprune.config import Config
from infprune.coupling.groups import ChannelLayer
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.influence.groups import Group, layer_groups, named_groups
from infprune.pipeline.bench import open_bench
from infprune.pipeline.influence_results import InfluenceRow, LayersResult
from infprune.pipeline.instrument import Lens, dense, open_problem, through_gates, through_weights
from infprune.pipeline.memory import within_memory
from infprune.pipeline.session import Session, network
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, told
from infprune.scores.contract import Need
from infprune.scores.measure import collect
from infprune.surgery import silenced


@within_memory
def run(settings: Config, progress: Progress) -> LayersResult:
    """Apply Theorem 1 to every layer, in the configured space.

    Raises:
        ConfigError: no group is left, or the curvature cannot be solved with.
    """
    if _in_gates(settings):
        return _of_gates(settings, progress)
    return _of_weights(settings, progress)


def _in_gates(settings: Config) -> bool:
    space = settings.influence.space
    if space != "auto":
        return space == "gates"
    choice = settings.influence
    if choice.fit or choice.curvature != "ggn" or choice.solver != "auto":  # words that only weights understand
        return False
    return not dense(settings, ParameterSpace.of(network(settings, trained=False)).size)


def _of_weights(settings: Config, progress: Progress) -> LayersResult:
    watch = Stopwatch()
    problem = open_problem(settings, "layers", watch)
    with watch.stage("curvature"):
        lens = through_weights(problem)
    objective, chosen = problem.objective, settings.layers
    space = objective.space
    groups = [g for g in layer_groups(space, problem.module) if _named(g.name, chosen.modules)]
    groups += named_groups(space, chosen.groups)
    if not groups:
        raise ConfigError(f"layers.modules: no module with parameters is named like {', '.join(chosen.modules)}")
    theta = objective.theta
    loss = objective.value(theta)
    rows = []
    with watch.stage("influence"), progress.bar("layers", len(groups)) as bar:
        for group in told(groups, bar):
            zeroed = theta.clone()
            zeroed[group.positions] = 0
            measured = objective.value(zeroed) - loss
            rows.append(_row(lens, group, measured))
    return _result(problem.session, lens, loss, rows, [], watch)


def _of_gates(settings: Config, progress: Progress) -> LayersResult:
    watch = Stopwatch()
    bench = open_bench(settings, "layers", watch)
    if settings.layers.groups:
        raise ConfigError("layers.groups: names parameters, but influence.space is gates; use influence.space=weights")
    layers = [layer for layer in bench.layers if _named(layer.name, settings.layers.modules)]
    if not layers:
        raise ConfigError(f"layers.modules: no prunable layer is named like {', '.join(settings.layers.modules)}")
    samples = bench.session.calibration()
    with watch.stage("curvature"), progress.bar("calibration", len(samples)) as bar:
        draws = settings.score.samples_per_input
        found = collect(
            bench.dense,
            bench.layers,
            told(samples, bar),
            frozenset({Need.GATES_MODEL}),
            seed=settings.run.seed,
            draws=draws,
        )
        Z = torch.cat([found.gates_model[layer.name] for layer in bench.layers], dim=1)
        lens = through_gates(settings, Z, len(Z) // draws)
    objective = Objective(bench.dense, ParameterSpace.of(bench.dense), list(samples))
    loss = objective.value(objective.theta)
    starts, at = {}, 0
    for layer in bench.layers:
        starts[layer.name], at = at, at + layer.size
    rows = []
    with watch.stage("influence"), progress.bar("layers", len(layers)) as bar:
        for layer in told(layers, bar):
            group = Group(layer.name, torch.arange(starts[layer.name], starts[layer.name] + layer.size))
            closed = silenced(bench.dense, bench.coupling, {layer.name: torch.zeros(layer.size, dtype=torch.bool)})
            measured = _value(closed, objective) - loss
            rows.append(_row(lens, group, measured))
    return _result(bench.session, lens, loss, rows, _left_out(bench.coupling.layers, layers), watch)


def _value(module: torch.nn.Module, like: Objective) -> float:
    """The mean loss of another network on the samples of an objective."""
    objective = Objective(module.eval(), ParameterSpace.of(module), like.batches, like.loss)
    return objective.value(objective.theta)


def _left_out(layers: tuple[ChannelLayer, ...], shown: list[ChannelLayer]) -> list[str]:
    names = {layer.name for layer in shown}
    return [f"{x.name}: {x.frozen or 'protected or not named'}" for x in layers if x.name not in names]


def _row(lens: Lens, group: Group, measured: float) -> InfluenceRow:
    theta = lens.quadratic.theta
    found = lens.removal(group.positions)
    finite = found.change < float("inf")
    note = None if finite else "a row sum of the inverse curvature is zero, the printed form has no value here"
    diagonal = lens.described.ridge + lens.described.damping
    return InfluenceRow(
        name=group.name,
        parameters=len(group.positions),
        influence=found.change if finite else None,
        of_damping=0.5 * diagonal * float(theta[group.positions.to(theta.device)].square().sum()),
        low=found.low,
        high=found.high,
        frozen_loss=measured,
        note=found.message or note,
    )


def _result(
    session: Session, lens: Lens, loss: float, rows: list[InfluenceRow], left_out: list[str], watch: Stopwatch
) -> LayersResult:
    session.record()
    return LayersResult(
        model=session.model_name,
        data=session.data_name,
        curvature=lens.described,
        loss=loss,
        rows=rows,
        left_out=left_out,
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )


def _named(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
