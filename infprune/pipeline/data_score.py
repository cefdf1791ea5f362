"""`infprune data score`: one score per training sample -> a scores file, tables and a histogram."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infprune import __version__, ranks
from infprune.attribution import METHODS
from infprune.attribution.contract import (
    Curved,
    Learning,
    Need,
    Options,
    Parts,
    SampleScores,
    ScoringInputs,
    scored,
)
from infprune.attribution.packing import is_packed, packed, unpacked
from infprune.attribution.scores_file import write_sample_scores
from infprune.config import Config
from infprune.curvature.kfac import Kronecker
from infprune.data.classes import all_labels
from infprune.data.dataset import Part, Samples
from infprune.data.loaders import Batches
from infprune.data.subset_file import fingerprint
from infprune.errors import InputError
from infprune.forward import Inputs
from infprune.models.checkpoint import digest
from infprune.pipeline.data_results import Bins, ClassRow, DataScoreResult, SampleRow
from infprune.pipeline.influence_results import CurvatureRow
from infprune.pipeline.instrument import open_problem, through_weights
from infprune.pipeline.memory import within_memory
from infprune.pipeline.session import Session, network, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.store import Store
from infprune.pipeline.workers import in_rounds, processes, worked
from infprune.progress import Progress, Silent
from infprune.units import GIB

SHOWN = 10
DIRECT = 10_000  # parameters up to which `influence.solver=auto` is Cholesky for self-influence, a solve per sample
BINS = 40


@dataclass(frozen=True)
class Opened:
    """A session, and what the chosen method needs of the trained network."""

    session: Session
    module: nn.Module | None
    curved: Curved | None
    described: CurvatureRow | None


@within_memory
def run(settings: Config, progress: Progress, *, resume: bool) -> DataScoreResult:
    """Score every training sample that is not held out, and write the scores.

    Raises:
        InputError: the queries have labels that no training sample has, or the data is invalid.
        InfpruneError: as the method says.
    """
    watch, name = Stopwatch(), settings.samples.method
    method, workers = METHODS[name], processes(settings)
    opened = _opened(settings, method.need, watch)
    session, train = opened.session, part(opened.session)
    inputs = _inputs(opened, progress)
    if method.need is Need.CURVATURE:
        check_queries(inputs.labels, all_labels(queries(session)), settings.samples.queries)
    data = fingerprint(train.base)
    kept = _kept(session, opened.module, data, len(train), resume=resume)
    inputs = replace(inputs, keep=kept)
    with watch.stage("score"):
        parts = method.parts(inputs)
        missing = [key for key in parts if kept.get(key) is None]
        if missing and (ranks.world() > 1 or (workers > 1 and len(missing) > 1)):
            with progress.bar("trainings", len(missing)) as bar:
                for key, value in _trained(missing, parts, session):
                    kept.put(key, value)
                    bar.advance(key)
        scores = scored(name, method, inputs, data)
    path = Path(settings.run.output or session.folder / "sample-scores.safetensors")
    write_sample_scores(
        path,
        scores,
        samples=len(train.base),
        base_sha256=None if opened.module is None else digest(opened.module),
        seed=settings.run.seed,
        config=settings.model_dump(exclude={"run"}),
        beside=session.replay,
    )
    return _result(session, scores, opened.described, path, watch)


def _trained(missing: Sequence[str], parts: Parts, session: Session) -> Iterator[tuple[str, str]]:
    """The results of trainings, in order, by several ranks or processes."""
    if ranks.world() == 1:
        return worked(missing, _worker, session.config, session.config.samples.workers)
    rounds = in_rounds(missing, lambda key: unpacked(parts[key]()))
    return ((key, packed(values)) for key, values in rounds)


def _worker(settings: Config) -> Callable[[str], str]:
    """What does one training of the configured method, in a process of its own."""
    method = METHODS[settings.samples.method]
    parts = method.parts(_inputs(_opened(settings, method.need, Stopwatch()), Silent()))
    return lambda key: parts[key]()


def _inputs(opened: Opened, progress: Progress) -> ScoringInputs:
    session, train = opened.session, part(opened.session)
    return ScoringInputs(
        train=train,
        labels=all_labels(train),
        classes=session.splits.classes,
        batches=session.batches,
        learning=learning(session),
        options=options(session.config),
        seed=session.config.run.seed,
        module=opened.module,
        curved=opened.curved,
        progress=progress,
    )


def part(session: Session) -> Part:
    """The training samples that are not held out; their base is the whole training part."""
    assert isinstance(session.splits.train, Part)
    return session.splits.train


def queries(session: Session) -> Samples:
    """The samples on whose loss influence is."""
    chosen: Samples = getattr(session.splits, session.config.samples.queries)
    return chosen


def learning(session: Session) -> Learning:
    """How the configured network is trained anew, by the section `train`."""
    settings = session.config

    def fresh(seed: int) -> nn.Module:
        seeded = settings.model_copy(update={"run": settings.run.model_copy(update={"seed": seed})})
        return network(seeded, trained=False).to(session.device)

    validation = session.batches(session.splits.validation)
    return Learning(fresh, session.recipe("train"), validation, session.augment())


def options(settings: Config) -> Options:
    """What the section `samples` says to the methods."""
    values = settings.samples.model_dump(include=set(Options.__dataclass_fields__) - {"memory"})
    return Options(**values, memory=int(settings.samples.memory * GIB))


def _opened(settings: Config, need: Need, watch: Stopwatch) -> Opened:
    command = f"data-{settings.samples.method}"  # the run folder's: another method does not overwrite it
    if need is Need.CURVATURE:
        settings, alone = solving(settings), _solves_apart(settings)
        problem = open_problem(settings, command, watch, shared=not alone)
        session, objective = problem.session, problem.objective
        with watch.stage("curvature"), ranks.apart() if alone else nullcontext():
            lens = through_weights(problem)
            if not isinstance(lens.quadratic.operator, Kronecker):
                _ = lens.quadratic.prepared  # now: by all ranks together, or by each apart
        seen = [session.batches(some, settings.data.batch_size) for some in (session.splits.train, queries(session))]
        views = [_View(ranks.share(batches).batches, problem.fitting) for batches in seen]
        curved = Curved(objective.on(views[0]), objective.on(views[1]), lens.quadratic)
        return Opened(session, problem.module, curved, lens.described)
    with watch.stage("load"):
        session = open_session(settings, command)
        module = open_model(session) if need is Need.WEIGHTS else None
        if need is Need.TRAINING:
            open_model(session, trained=False)  # its checks
    return Opened(session, module, None, None)


def solving(settings: Config) -> Config:
    """The settings, with a solver that is worth its factorisation where there is one right-hand side per sample."""
    choice = settings.influence
    if settings.samples.method != "self-influence" or choice.solver != "auto" or choice.curvature in ("kfac", "ekfac"):
        return settings
    if sum(p.numel() for p in network(settings, trained=False).parameters()) > DIRECT:
        return settings
    return settings.model_copy(update={"influence": choice.model_copy(update={"solver": "cholesky"})})


def _solves_apart(settings: Config) -> bool:
    """Whether each rank solves for samples of its own with a curvature that is applied, and so needs all data."""
    choice = solving(settings).influence
    matrix_free = choice.solver not in ("cholesky", "ldl") and choice.curvature not in ("kfac", "ekfac")
    return matrix_free and settings.samples.method == "self-influence"


@dataclass(frozen=True)
class _View:
    """Batches in the network's dtype, that can be visited again and are not kept."""

    batches: Batches
    fitting: Callable[[Inputs], Inputs]

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for x, y in self.batches:
            yield self.fitting(x), y


def check_queries(train: Tensor, asked: Tensor, name: str) -> None:
    """Refuse queries of classes that nothing was trained on.

    Raises:
        InputError: a label of the queries is no training sample's.
    """
    strange = asked[~torch.isin(asked, train)]
    if len(strange):
        raise InputError(
            f"the {name} part has label {int(strange[0])}, which no training sample has; "
            "give training samples of it, or leave it out of the queries"
        )


def _kept(session: Session, module: nn.Module | None, data: str, count: int, *, resume: bool) -> Store:
    """Finished trainings of this very scoring."""
    settings = session.config
    content: dict[str, Any] = settings.model_dump(include={"model", "train", "samples", "influence"})
    content["run"] = {key: getattr(settings.run, key) for key in ("seed", "precision")}
    for key in ("keep", "strategy", "balance", "fractions", "strategies", "equal", "workers", "memory"):
        content["samples"].pop(key)
    content["data"] = [session.data_identity, data]
    content["weights"] = None if module is None else digest(module)
    content["versions"] = [__version__, torch.__version__]
    identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    ranks.alike("weights, data and settings", identity)
    return Store(session.folder / "trainings.json", identity, resume=resume, valid=partial(_valid, count))


def _valid(count: int, value: Any) -> bool:
    """Whether a value that was read back is one or two numbers per sample."""
    return is_packed(value, count) or is_packed(value, 2 * count)


def _result(
    session: Session, scores: SampleScores, described: CurvatureRow | None, path: Path, watch: Stopwatch
) -> DataScoreResult:
    total = scores.total
    order = total.argsort(descending=True, stable=True)

    def rows(positions: Tensor) -> list[SampleRow]:
        return [SampleRow(int(scores.indices[i]), int(scores.labels[i]), float(total[i])) for i in positions.tolist()]

    return DataScoreResult(
        method=scores.method,
        unit=scores.unit,
        meaning=scores.meaning,
        model=session.model_name,
        data=session.data_name,
        samples=len(total),
        groups=list(scores.groups),
        facts=dict(scores.facts),
        classes=_classes(scores),
        highest=rows(order[:SHOWN]),
        lowest=rows(order.flip(0)[:SHOWN]),
        histogram=_bins(total),
        curvature=described,
        scores=str(path),
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )


def _classes(scores: SampleScores) -> list[ClassRow]:
    points = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = []
    for c in torch.unique(scores.labels).tolist():
        mine = scores.total[scores.labels == c]
        found.append(ClassRow(int(c), len(mine), float(mine.mean()), mine.quantile(points).tolist()))
    return found


def _bins(values: Tensor) -> Bins:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    return Bins(edges.tolist(), torch.histc(values, BINS, low, high).int().tolist())
