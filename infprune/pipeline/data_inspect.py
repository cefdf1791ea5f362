"""`infprune data inspect`: which training samples stand behind a prediction, and which of them look wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infprune import ranks
from infprune.attribution.contract import SampleScores
from infprune.attribution.scores_file import read_sample_scores
from infprune.config import Config
from infprune.curvature.objective import Objective
from infprune.data.classes import all_labels
from infprune.data.dataset import Part, Samples, gather
from infprune.data.subset_file import fingerprint
from infprune.errors import ConfigError, InputError
from infprune.forward import Inputs, logits, move, rows
from infprune.pipeline.data_inspect_results import InspectedSample, Inspection, InspectResult, Query, View
from infprune.pipeline.data_score import check_queries
from infprune.pipeline.influence_results import CurvatureRow
from infprune.pipeline.instrument import Problem, open_problem, through_weights
from infprune.pipeline.memory import within_memory
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress

NAMED = {  # what the largest scores of a method are
    "memorisation": ("memorised", "Most memorised"),
    "self-influence": ("memorised", "Most memorised"),
    "out-of-fold": ("suspects", "Suspected mislabels"),
}


@dataclass(frozen=True)
class Asked:
    """What to show. `test`: a test sample's index; `label`: a class, for all its test samples; neither: no query."""

    test: int | None = None
    label: int | None = None
    scores: Sequence[Path] = ()
    top: int = 12

    @property
    def words(self) -> list[str]:
        """The same on the command line."""
        query = {"--test": self.test, "--class": self.label}
        told = [word for name, value in query.items() if value is not None for word in (name, str(value))]
        return [*told, *(word for path in self.scores for word in ("--scores", str(path))), "--top", str(self.top)]


@dataclass(frozen=True)
class _Judged:
    """What the network says of each training sample; positions count within the training split."""

    indices: Tensor
    labels: Tensor
    predicted: Tensor
    probability: Tensor
    loss: Tensor

    def sample(self, rank: int, at: int, score: float) -> InspectedSample:
        return InspectedSample(
            rank,
            int(self.indices[at]),
            int(self.labels[at]),
            int(self.predicted[at]),
            float(self.probability[at]),
            float(self.loss[at]),
            score,
        )


@within_memory
def run(settings: Config, asked: Asked, progress: Progress) -> Inspection:
    """Judge all training samples by the network, and rank them by influence on the query and by stored scores.

    Raises:
        ConfigError: no such test sample or class, more samples asked for than there are, or a curvature that cannot be
            solved with.
        InputError: a file of scores is damaged or of another data set, or no training sample has the label asked about.
    """
    watch = Stopwatch()
    if asked.test is not None and asked.label is not None:
        raise ConfigError("expected a test sample or a class to explain, got both; give one of --test and --class")
    problem = open_problem(settings, "data-inspect", watch)
    session = problem.session
    train = session.splits.train
    if not 1 <= asked.top <= len(train):
        raise ConfigError(f"--top: expected 1 to {len(train)} samples, as many as there are, got {asked.top}")
    _check(asked, session.splits.test, session.splits.classes)
    if asked.test is not None or asked.label is not None:
        label = asked.label if asked.test is None else int(gather(session.splits.test, [asked.test])[1])
        check_queries(all_labels(train), torch.tensor([label]), "test")
    stored = [_stored(path, train) for path in asked.scores]
    with watch.stage("judge"):
        judged = _judge(problem, train, progress)
    query, described, views = None, None, []
    if asked.test is not None or asked.label is not None:
        with watch.stage("influence"):
            query, described, influence = _influence(problem, asked, train)
        views += _sides(judged, influence, asked.top)
    views.append(_suspects(judged, asked.top))
    views += [_by_scores(judged, scores, asked.top) for scores in stored]
    session.record()
    result = InspectResult(
        model=session.model_name,
        data=session.data_name,
        samples=len(train),
        query=query,
        curvature=described,
        views=views,
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )
    return _pictured(result, problem, train, judged, asked)


def _check(asked: Asked, test: Samples, classes: int) -> None:
    if asked.test is not None and not 0 <= asked.test < len(test):
        raise ConfigError(f"--test: expected a test sample from 0 to {len(test) - 1}, got {asked.test}")
    if asked.label is not None and not 0 <= asked.label < classes:
        raise ConfigError(f"--class: expected a class from 0 to {classes - 1}, got {asked.label}")


def _stored(path: Path, train: Samples) -> SampleScores:
    assert isinstance(train, Part)
    scores, manifest = read_sample_scores(path)
    whole = train.base
    if manifest.samples != len(whole) or scores.data_sha256 != fingerprint(whole):
        raise InputError(
            f"{path}: these scores are of another data set (of {manifest.samples} training samples, got one of "
            f"{len(whole)}); score this one"
        )
    return scores


def _judge(problem: Problem, train: Samples, progress: Progress) -> _Judged:
    assert isinstance(train, Part)
    batches, y = problem.session.batches(train), all_labels(train)
    with torch.no_grad(), progress.bar("samples", len(batches)) as bar:

        def visit(x: Inputs, _: Tensor) -> Tensor:
            found = logits(problem.module, problem.fitting(x)).double().log_softmax(1).cpu()
            bar.advance()
            return found

        logs = ranks.visited(batches, visit)
    loss = -logs[torch.arange(len(y)), y]
    return _Judged(train.indices, y, logs.argmax(1), loss.neg().exp(), loss)


def _influence(problem: Problem, asked: Asked, train: Samples) -> tuple[Query, CurvatureRow, Tensor]:
    """The query's loss that each training sample saves: grad L(query)^T H^-1 grad L(z) / N."""
    session, objective = problem.session, problem.objective
    theta = objective.theta
    queries = _queried(problem, asked)
    queried = Objective(problem.module, objective.space, ranks.share(queries).batches)
    lens = through_weights(problem)
    solution = lens.quadratic.prepared.solve(queried.gradient(theta).to(lens.quadratic.theta))
    if not solution.outcome.usable:
        raise ConfigError(f"the curvature is {solution.outcome}: {solution.message}")
    every = [(problem.fitting(x), y) for x, y in ranks.share(session.batches(train)).batches]
    influence = objective.on(every).slopes(theta, solution.value.to(theta)[:, None])[:, 0].double().cpu() / len(train)
    loss = queried.value(theta)
    if asked.test is None:
        count = queried.samples()
        return Query(f"the mean loss of class {asked.label}", count, loss, None), lens.described, influence
    ((x, y),) = queries
    with torch.no_grad():
        logs = queried.outputs(theta, x).double().log_softmax(1)[0]
    label = int(y[0])
    sample = InspectedSample(1, asked.test, label, int(logs.argmax()), float(logs[label].exp()), loss, loss)
    return Query(f"the loss of test sample {asked.test}", 1, loss, sample), lens.described, influence


def _queried(problem: Problem, asked: Asked) -> list[tuple[Inputs, Tensor]]:
    session = problem.session
    test = session.splits.test
    if asked.test is not None:
        x, y = gather(test, [asked.test])
        return [(problem.fitting(move(x, session.device)), y.to(session.device))]
    assert asked.label is not None
    chosen = [(rows(x, y.eq(asked.label)), y[y.eq(asked.label)]) for x, y in session.batches(test)]
    some = [(problem.fitting(x), y) for x, y in chosen if len(y)]
    if not some:
        raise ConfigError(f"--class: the test part has no sample of class {asked.label}")
    return some


def _sides(judged: _Judged, influence: Tensor, top: int) -> list[View]:
    """The samples that the query's loss would miss most, and those it would be better without."""
    order = influence.argsort(descending=True, stable=True)
    told = "by this the query's loss would rise without the sample, to first order; where negative, it would fall"
    sides = (("helpful", "Most helpful", order[:top]), ("harmful", "Most harmful", order.flip(0)[:top]))
    return [_view(judged, some, influence, name, title, "influence", "nats", told) for name, title, some in sides]


def _suspects(judged: _Judged, top: int) -> View:
    order = judged.loss.argsort(descending=True, stable=True)
    meaning = "the network does not believe the label; one that has fitted the label hides it: see data score"
    return _view(judged, order[:top], judged.loss, "suspects", "Suspected mislabels", "loss", "nats", meaning)


def _by_scores(judged: _Judged, scores: SampleScores, top: int) -> View:
    """The largest scores of a file, of samples in the training split."""
    place = {int(index): at for at, index in enumerate(judged.indices)}
    pairs = [(place[int(i)], float(s)) for i, s in zip(scores.indices, scores.total, strict=True) if int(i) in place]
    if len(pairs) < top:
        raise ConfigError(f"--top: {top} samples asked for, but the scores of {scores.method} are of {len(pairs)} only")
    values = torch.full((len(judged.indices),), -torch.inf, dtype=torch.float64)
    values[torch.tensor([at for at, _ in pairs])] = torch.tensor([s for _, s in pairs], dtype=torch.float64)
    order = values.argsort(descending=True, stable=True)[:top]
    name, title = NAMED.get(scores.method, ("scores", "Largest scores"))
    title = f"{title} ({scores.method})"
    return _view(judged, order, values, name, title, scores.method, scores.unit, scores.meaning)


def _view(
    judged: _Judged, order: Tensor, values: Tensor, name: str, title: str, method: str, unit: str, meaning: str
) -> View:
    rows = [judged.sample(rank, at, float(values[at])) for rank, at in enumerate(order.tolist(), 1)]
    return View(name, title, method, unit, meaning, rows)


def _pictured(result: InspectResult, problem: Problem, train: Samples, judged: _Judged, asked: Asked) -> Inspection:
    """Beside the result, the inputs of its samples; a network of several inputs has no pictures."""
    session = problem.session
    wanted = {row.index for view in result.views for row in view.rows}
    places = [at for at, index in enumerate(judged.indices.tolist()) if index in wanted]
    x, _ = gather(train, places)
    shown = {} if isinstance(x, tuple) else dict(zip(judged.indices[places].tolist(), x, strict=True))
    query = None
    if asked.test is not None:
        found, _ = gather(session.splits.test, [asked.test])
        query = None if isinstance(found, tuple) else found[0]
    return Inspection(result, shown, query, session.splits.features, asked.words)
