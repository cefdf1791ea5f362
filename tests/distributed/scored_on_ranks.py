"""Scores, a curve and inspections that must not depend on how many ranks make them: FOLDER NAME ... is written."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from infprune import config, ranks
from infprune.attribution import METHODS
from infprune.data.dataset import ArrayDataset, Source
from infprune.pipeline import data_curve, data_inspect, data_score
from infprune.progress import Silent

CASES = {method: [f"samples.method={method}"] for method in METHODS} | {
    "influence, fitted, cg": [
        "samples.method=influence",
        "influence.fit=true",
        "influence.ridge=0.1",
        "influence.curvature=hessian",
        "influence.solver=cg",
        "samples.per_class=true",
        "samples.queries=test",
    ],
    "influence, fisher": ["samples.method=influence", "influence.curvature=fisher"],
    "influence, ekfac": ["samples.method=influence", "influence.curvature=ekfac"],
    "self-influence, cg": ["samples.method=self-influence", "influence.solver=cg", "influence.damping=0.1"],
    "self-influence, ekfac": ["samples.method=self-influence", "influence.curvature=ekfac"],
    "self-influence, projected": ["samples.method=self-influence", "samples.projection=5"],
    "prototypes, few batches": ["samples.method=prototypes", "data.batch_size=60"],
}
INSPECTED = {"a sample": data_inspect.Asked(test=5, top=4), "a class": data_inspect.Asked(label=1, top=4)}
COMMON = [
    "model.factory=scored_on_ranks:net",
    "model.checkpoint=random",
    "data.factory=scored_on_ranks:data",
    "data.batch_size=10",
    "data.calibration=33",
    "train.epochs=2",
    "train.lr=0.2",
    "samples.seeds=3",
    "samples.epochs=1",
    "samples.subsets=3",
    "samples.folds=2",
    "samples.fractions=[0.5]",
    "influence.rtol=1e-7",
]


def part(n, seed):
    """Clouds of three classes."""
    y = torch.arange(n) % 3
    return ArrayDataset(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) + y[:, None], y)


def data():
    """60 training and 24 test samples."""
    return Source(part(60, 0), part(24, 1), 3, (4,))


def net():
    """One hidden layer."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def settings(folder, name, *words):
    """The configuration of one case."""
    return config.load(None, [*COMMON, f"run.dir={folder / name}", *words])


def scores(folder, names):
    """Write the scores of these cases."""
    for name in names:
        data_score.run(settings(folder, name, *CASES[name]), Silent(), resume=False)


def results(folder):
    """A curve and two inspections, as JSON: with scores of random."""
    stored = folder / "random/sample-scores.safetensors"
    found = {"curve": data_curve.run(stored, settings(folder, "curve"), Silent(), resume=False).rows}
    for name, asked in INSPECTED.items():
        words = replace(asked, scores=[stored])
        found[name] = data_inspect.run(settings(folder, "inspect"), words, Silent()).result
    return json.loads(json.dumps(found, default=asdict))


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks.join()
    target, *chosen = sys.argv[1:]
    scores(Path(target), chosen)
    if "random" in chosen:
        made = results(Path(target))
        ranks.alike("curve", str(made["curve"]))
        ranks.alike("views", str([made[name]["views"] for name in INSPECTED]))
        if ranks.leads():
            Path(target, "results.json").write_text(json.dumps(made))
    ranks.finish()
    ranks.leave(0)
