"""`infprune data curve`: test accuracy against the share of training samples kept, by strategy and at random."""

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infprune import __version__, ranks
from infprune.attribution.contract import Learning
from infprune.config import Config
from infprune.data.choosing import chosen
from infprune.data.dataset import Part
from infprune.data.subset_file import Subset, check_subset, outline, within
from infprune.evaluation import evaluate
from infprune.pipeline.data_prune import Scored, read
from infprune.pipeline.data_results import CurveRow, DataCurveResult
from infprune.pipeline.data_score import learning, part
from infprune.pipeline.memory import within_memory
from infprune.pipeline.session import Session, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch
from infprune.pipeline.store import Store
from infprune.pipeline.workers import in_rounds, processes, worked
from infprune.progress import Progress, Silent
from infprune.training import train

RANDOM = "random"
WHOLE = "whole"


@dataclass(frozen=True)
class Point:
    """One training: a strategy (or random, or the whole) at a share, with a seed."""

    strategy: str
    keep: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in the store."""
        return f"{self.strategy}/{self.keep!r}/{self.seed}"


@within_memory
def run(path: Path, settings: Config, progress: Progress, *, resume: bool) -> DataCurveResult:
    """Train on every share, strategy and seed; every finished training is stored at once, and `resume` skips it.

    Raises:
        InputError: the scores are of another data set.
    """
    watch, scored = Stopwatch(), read(path)
    processes(settings)  # its check
    with watch.stage("load"):
        session = open_session(settings, "data-curve")
        open_model(session, trained=False)  # its checks
        whole = part(session)
        check_subset(scored.subset(1.0, "hard", "none", 0), whole.base, path)
    choice = settings.samples
    seeds = range(settings.run.seed, settings.run.seed + choice.seeds)
    names = [*dict.fromkeys(choice.strategies), RANDOM]
    shares = sorted(set(choice.fractions))
    points = [Point(WHOLE, 1.0, s) for s in seeds]
    points += [Point(name, share, s) for s in seeds for share in shares for name in names]
    identity = _identity(session, scored)
    ranks.alike("scores, data and settings", identity)
    store = Store(session.folder / "curve.json", identity, resume=resume, valid=_accuracy)
    subsets = {p: _subset(p, session, scored, path) for p in points}  # what cannot be chosen is told at once
    missing = [p for p in points if store.get(p.key) is None]
    with progress.bar("curve", len(points)) as bar, watch.stage("train"):
        for _ in range(len(points) - len(missing)):
            bar.advance("resumed")
        for key, accuracy in _measured(missing, subsets, session, path):
            store.put(key, accuracy)
            bar.advance(key)
    session.record()
    found = {p: float(store.get(p.key)) for p in points}
    return DataCurveResult(
        model=session.model_name,
        data=session.data_name,
        method=scored.scores.method,
        balance=choice.balance,
        samples=len(scored.scores.indices),
        whole=_spread([found[Point(WHOLE, 1.0, s)] for s in seeds]),
        rows=[_row(n, k, len(subsets[Point(n, k, seeds[0])]), found, seeds) for n in names for k in shares],
        seconds=watch.seconds,
        files=[],
        run_dir=str(session.folder),
    )


def _measured(
    points: Sequence[Point], subsets: Mapping[Point, Part], session: Session, path: Path
) -> Iterator[tuple[str, float]]:
    """The accuracy of each point, by key, in processes of their own if asked for."""
    if ranks.world() > 1:
        by_key = {p.key: p for p in points}

        def one(key: str) -> Tensor:
            return torch.tensor([_trained(by_key[key], subsets[by_key[key]], session)], dtype=torch.float64)

        yield from ((key, float(accuracy)) for key, accuracy in in_rounds(list(by_key), one))
    elif session.config.samples.workers > 1 and len(points) > 1:
        make = partial(_worker, path, tuple(points))
        yield from worked([p.key for p in points], make, session.config, session.config.samples.workers)
    else:
        for point in points:
            yield point.key, _trained(point, subsets[point], session)


def _worker(path: Path, points: Sequence[Point], settings: Config) -> Callable[[str], float]:
    """What measures one point, in a process of its own."""
    session, scored, by_key = open_session(settings, "data-curve"), read(path), {p.key: p for p in points}
    return lambda key: _trained(by_key[key], _subset(by_key[key], session, scored, path), session)


def _subset(point: Point, session: Session, scored: Scored, path: Path) -> Part:
    if point.strategy == WHOLE:
        kept = Subset(scored.scores.indices, scored.manifest.samples, scored.scores.data_sha256)
    elif point.strategy == RANDOM:
        chance = torch.rand(len(scored.scores.indices), generator=torch.Generator().manual_seed(point.seed))
        balance = session.config.samples.balance
        positions = chosen(chance, scored.scores.labels, point.keep, "hard", balance)
        kept = Subset(scored.scores.indices[positions], scored.manifest.samples, scored.scores.data_sha256)
    else:
        kept = scored.subset(point.keep, point.strategy, session.config.samples.balance, point.seed)
    return within(part(session), kept, path)


def _trained(point: Point, samples: Part, session: Session) -> float:
    """Test accuracy of a network trained on a subset from the initial weights of a seed."""
    taught: Learning = learning(session)
    recipe = taught.recipe
    if session.config.samples.equal == "steps":
        size, count = recipe.batch_size, math.ceil
        steps = recipe.epochs * count(len(part(session)) / size)
        recipe = replace(recipe, epochs=max(recipe.epochs, round(steps / count(len(samples) / size))))
    trained = train(
        taught.fresh(point.seed),
        samples,
        taught.validation,
        recipe,
        seed=point.seed,
        augment=taught.augment,
        progress=Silent(),
    )
    return evaluate(trained.module, session.batches(session.splits.test)).accuracy


def _row(strategy: str, keep: float, kept: int, found: dict[Point, float], seeds: Sequence[int]) -> CurveRow:
    at = partial(Point, keep=keep)
    mine = [found[at(strategy, seed=s)] for s in seeds]
    difference = None
    if strategy != RANDOM:
        difference = _spread([a - found[at(RANDOM, seed=s)] for a, s in zip(mine, seeds, strict=True)])
    wins = None if difference is None or len(mine) < 2 else difference[0] > difference[1]
    return CurveRow(strategy, keep, kept, len(mine), _spread(mine), difference, wins)


def _spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _identity(session: Session, scored: Scored) -> str:
    settings = session.config
    content: dict[str, Any] = settings.model_dump(include={"model", "train"})
    content["data"] = [session.data_identity, outline(session.splits.test)]
    content["samples"] = {"balance": settings.samples.balance, "equal": settings.samples.equal}
    content["precision"] = settings.run.precision
    content["scores"] = scored.subset(1.0, "hard", "none", 0).made["scores_sha256"]
    content["versions"] = [__version__, torch.__version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _accuracy(value: Any) -> bool:
    return type(value) is float and 0 <= value <= 1
