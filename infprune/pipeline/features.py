"""`infprune features`: the influence of each input feature (MU section 5.4)."""

import torch
from torch import Tensor, nn

from infprune.config import Config
from infprune.curvature.input_gates import input_gates
from infprune.curvature.kfac import Kronecker
from infprune.curvature.patches import matrix
from infprune.errors import ArchitectureError, ConfigError
from infprune.evaluation import evaluate
from infprune.forward import tensors
from infprune.influence.groups import FirstLayer, feature_groups, first_layer
from infprune.influence.kronecker import single_column_costs
from infprune.pipeline.influence_results import FeatureRow, FeaturesResult
from infprune.pipeline.instrument import Lens, Problem, dense, open_problem, through_gates, through_weights
from infprune.pipeline.memory import within_memory
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, told
from infprune.units import WIDEST


@within_memory
def run(settings: Config, progress: Progress) -> FeaturesResult:
    """Score every input feature by the weights that read it, or by its gate.

    An image's features are its pixels: the channels of a pixel go together.

    Raises:
        ConfigError: too many features, or the curvature cannot be solved with.
        ArchitectureError: the network takes several inputs, or, in the space of weights, no layer reads its input
            directly.
    """
    watch = Stopwatch()
    problem = open_problem(settings, "features", watch)
    session = problem.session
    x, *others = tensors(problem.fitting(session.example()))
    if others:
        raise ArchitectureError(f"features: expected a network of one input, got {1 + len(others)}; look at its layers")
    pixels = _map(x)
    if _in_gates(problem):
        read_by = "gates on the inputs"
        with watch.stage("curvature"):
            lens = through_gates(settings, _gate_rows(problem, x), problem.objective.samples())
        with watch.stage("influence"):
            found = _of_gates(lens, pixels, progress)
    else:
        first = first_layer(problem.module, x)
        read_by = first.weight
        pixels = pixels if first.shape == tuple(x.shape[1:]) else None
        with watch.stage("curvature"):
            lens = through_weights(problem)
        with watch.stage("influence"):
            found = _of_weights(problem, lens, first, pixels, progress)
    names = _names(session.splits.features, len(found), pixels, x)
    order = torch.tensor(found).argsort(descending=True, stable=True)
    ranks = torch.empty_like(order).index_copy_(0, order, torch.arange(1, len(found) + 1))
    test = ((problem.fitting(x), y) for x, y in session.batches(session.splits.test))
    accuracy = evaluate(problem.module, test).accuracy
    session.record()
    return FeaturesResult(
        model=session.model_name,
        data=session.data_name,
        curvature=lens.described,
        read_by=read_by,
        accuracy=accuracy,
        rows=[
            FeatureRow(n, v if v < float("inf") else None, int(r)) for n, v, r in zip(names, found, ranks, strict=True)
        ],
        shape=None if pixels is None else list(pixels),
        top=settings.features.top,
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )


def _in_gates(problem: Problem) -> bool:
    settings = problem.session.config
    choice = settings.influence
    if choice.space != "auto":
        return choice.space == "gates"
    if choice.curvature not in ("kfac", "ekfac") and not dense(settings, problem.objective.space.size):
        return True
    try:
        first_layer(problem.module, problem.fitting(problem.session.example()))
    except ArchitectureError:
        return True
    return False


def _map(x: Tensor) -> tuple[int, int] | None:
    """Height and width of image inputs."""
    return (x.shape[-2], x.shape[-1]) if x.dim() == 4 else None


def _names(given: tuple[str, ...] | None, count: int, pixels: tuple[int, int] | None, x: Tensor) -> list[str]:
    if given is not None and len(given) == count:
        return list(given)
    if pixels is not None:
        return [f"pixel ({i // pixels[1]}, {i % pixels[1]})" for i in range(count)]
    kind = "channel" if x.dim() > 2 and count == x.shape[1] else "feature"
    return [f"{kind} {i}" for i in range(count)]


def _gate_rows(problem: Problem, x: Tensor) -> Tensor:
    size = x[0].numel()
    if size > WIDEST:
        raise ConfigError(f"features: {size} input entries, at most {WIDEST} can be gated; use smaller images")
    return input_gates(problem.objective)


def _of_gates(lens: Lens, pixels: tuple[int, int] | None, progress: Progress) -> list[float]:
    positions = torch.arange(len(lens.quadratic.theta))
    groups = positions.reshape(-1, pixels[0] * pixels[1]).T if pixels else positions[:, None]
    with progress.bar("features", len(groups)) as bar:
        return [lens.removal(S).change for S in told(groups, bar)]


def _of_weights(
    problem: Problem, lens: Lens, first: FirstLayer, pixels: tuple[int, int] | None, progress: Progress
) -> list[float]:
    groups = [g.positions for g in feature_groups(problem.objective.space, first)]
    if pixels and len(groups) > pixels[0] * pixels[1]:  # the channels of a pixel go together
        count = pixels[0] * pixels[1]
        groups = [torch.unique(torch.cat(groups[i::count])) for i in range(count)]
    name = first.weight.rpartition(".")[0]
    operator, owner = lens.quadratic.operator, problem.module.get_submodule(name)
    single = isinstance(owner, nn.Linear) and len(groups) == owner.in_features and lens.described.form == "block"
    if isinstance(operator, Kronecker) and single:
        found: list[float] = single_column_costs(operator.blocks[name], matrix(owner).detach()[0]).tolist()
        return found
    with progress.bar("features", len(groups)) as bar:
        return [lens.removal(S).change for S in told(groups, bar)]
