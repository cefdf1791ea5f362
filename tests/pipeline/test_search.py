"""What a search of the rate predicts is what it measures."""

import copy

import pytest
import torch
from torch import nn

from infprune import config, sensitivity
from infprune.pipeline import search
from infprune.pipeline.bench import open_bench
from infprune.pipeline.score import scored
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent

WORDS = ["data.calibration=64", "data.batch_size=32", "score.criterion=magnitude", "prune.rate=0.5"]


@pytest.fixture(scope="module")
def bench():
    return open_bench(config.load("digits", WORDS), "prune", Stopwatch())


def test_the_prediction_is_of_the_loss_before_distillation(bench, monkeypatch):
    found = scored(bench, ("magnitude",), 0, Silent())["magnitude"]
    plain = search._probe(bench, found, 0.5)
    assert plain.distilled is None
    followed = copy.deepcopy(bench.dense)
    with torch.no_grad():
        head = [m for m in followed.modules() if isinstance(m, nn.Linear)][-1]
        head.weight.mul_(1.5)
    monkeypatch.setattr(search, "distilled", lambda *_: followed)
    probe = search._probe(bench, found, 0.5)
    assert (probe.predicted, probe.measured) == (plain.predicted, plain.measured)
    assert probe.distilled == pytest.approx(sensitivity.distance(bench.dense, followed, bench.trial_samples))
    assert probe.distilled != probe.measured
