"""Why influence finds flipped labels on clean queries and not on flipped ones: what `scripts/mislabels.py` tells of it.

At a minimum of the noisy loss, the mean gradient of other samples with noise of the same kind is that of the gap
between training and new samples alone: its clean part and its flipped part pull against each other. So the influence on
such queries says little about flips; it is right all the same, which retraining without single samples shows.
"""

from collections.abc import Iterator
from typing import Any

import torch
from flipped import flips
from torch import Tensor

from infprune import config
from infprune.attribution.influence import solve
from infprune.curvature import regularised
from infprune.curvature.objective import Objective
from infprune.data.dataset import Part, Samples
from infprune.influence.leave_one_out import leave_one_out
from infprune.pipeline.instrument import Problem, open_problem, through_weights
from infprune.pipeline.stopwatch import Stopwatch
from infprune.solvers.direct import Cholesky

QUERIES = ("validation", "its right labels", "its flipped labels", "clean test samples")
REMOVED = 40  # samples whose removal is checked by retraining, half of them flips


def measured(settings: config.Config, *, retrained: bool = False) -> dict[str, Any]:
    """The influence of the training samples on each kind of queries, and whether they are flips (`wrong`); for JSON.

    `retrained`: also its correlation with the true changes of the queries' loss, over `REMOVED` samples left out.
    """
    problem = open_problem(settings, "mislabels", Stopwatch())
    lens, theta = through_weights(problem), problem.objective.theta
    train, args = problem.session.splits.train, settings.data.args
    assert isinstance(train, Part)
    flipped = flips(args["samples"], args["share"], args["seed"])
    wrong, found, gradients = torch.isin(train.indices, flipped), {}, {}
    asked = dict(zip(QUERIES, _queries(problem, flipped), strict=True))
    for name, queries in asked.items():
        gradients[name] = queries.gradient(theta)
        v = solve(lens.quadratic, gradients[name][:, None]).value.to(theta)
        scores = _on(problem, train).slopes(theta, v)[:, 0].double()
        found[name] = {
            "samples": queries.samples(),
            "loss": queries.value(theta),
            "gradient": float(gradients[name].norm()),
            "flips": float(scores[wrong].mean()),
            "rest": float(scores[~wrong].mean()),
            "scores": [float(f"{s:.6g}") for s in scores.tolist()],
        }
    right, bad = gradients["its right labels"], gradients["its flipped labels"]
    told: dict[str, Any] = {"queries": found, "wrong": wrong.tolist()}
    told["cosine"] = float(right @ bad / right.norm() / bad.norm())
    if retrained:
        told["retraining"] = _agreement(problem, asked, found, wrong)
    return told


def _agreement(problem: Problem, asked: dict[str, Objective], found: dict[str, Any], wrong: Tensor) -> dict[str, float]:
    """Correlation of predicted and true changes of each queries' loss: half of the samples left out are flips."""
    objective, theta, chance = problem.objective, problem.objective.theta, torch.Generator().manual_seed(0)
    curvature = Cholesky().init(regularised("hessian", objective, theta))
    chosen = []
    for kind in (wrong, ~wrong):
        places = kind.nonzero()[:, 0]
        chosen += places[torch.randperm(len(places), generator=chance)[: REMOVED // 2]].tolist()
    minima = [leave_one_out(objective, theta, i, curvature).theta for i in chosen]
    told = {}
    for name, queries in asked.items():
        before = queries.value(theta)
        pairs = [(found[name]["scores"][i], queries.value(at) - before) for i, at in zip(chosen, minima, strict=True)]
        told[name] = float(torch.corrcoef(torch.tensor(pairs, dtype=torch.float64).T)[0, 1])
    return told


def _queries(problem: Problem, flipped: Tensor) -> Iterator[Objective]:
    validation = problem.session.splits.validation
    assert isinstance(validation, Part)
    wrong = torch.isin(validation.indices, flipped)
    yield _on(problem, validation)
    yield _on(problem, Part(validation, (~wrong).nonzero()[:, 0]))
    yield _on(problem, Part(validation, wrong.nonzero()[:, 0]))
    yield _on(problem, problem.session.splits.test)


def _on(problem: Problem, samples: Samples) -> Objective:
    every = [(problem.fitting(x), y) for x, y in problem.session.batches(samples)]
    return Objective(problem.module, problem.objective.space, every)
