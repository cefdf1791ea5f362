"""Scores within a memory budget are those of one pass."""

import gc
import re
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

from infprune import config
from infprune.errors import ConfigError
from infprune.estimate import estimate
from infprune.passes import planned, without_factors
from infprune.pipeline import memory, score
from infprune.pipeline.bench import open_bench
from infprune.pipeline.passes import planned_passes
from infprune.pipeline.score import scored
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from infprune.scores import measure
from infprune.scores.contract import Need

CRITERIA = ("influence", "theorem1", "gate", "inf-cp", "taylor", "magnitude")
COMMON = ["data.calibration=48", "data.batch_size=16", "model.checkpoint=random", "prune.scope=global"]


def opened(*words):
    return open_bench(config.load("digits", [*COMMON, *words]), "score", Stopwatch())


def estimated(bench, batch):
    data = {"batch": batch, "samples": 48, "positions": 64}
    return estimate(bench.dense, bench.coupling, bench.layers, bench.session.example(), **data)


def gib(bench, share, batch):
    """A budget for so large a share of the factors and so many samples at a time, or the least for all criteria."""
    found = estimated(bench, batch)
    part = found.weights + int(share * found.factors) + max(found.activations, found.solving)
    return max(part, planned(found, bench.layers, 0).peak, without_factors(estimated(bench, 16)).peak) / 2**30


class Telling(Silent):
    """Keeps the names of bars."""

    def __init__(self):
        self.names = []

    @contextmanager
    def bar(self, description, total):
        self.names.append(description)
        with super().bar(description, total) as bar:
            yield bar


def found(bench, criteria=CRITERIA):
    telling = Telling()
    return scored(bench, criteria, 3, telling), telling.names


def same(one, other):
    assert one.keys() == other.keys()
    for name, scores in one.items():
        assert list(scores.values) == list(other[name].values)
        for layer, values in scores.values.items():
            assert_close(other[name].values[layer], values, rtol=2e-4, atol=1e-7, msg=f"{name} {layer}")


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_several_passes_give_the_scores_of_one(share):
    bench = opened()
    whole, names = found(bench)
    assert names == ["calibration"]
    again = opened(f"score.memory={gib(bench, share, 4)}")
    parted, names = found(again)
    assert len(names) > 2
    assert names[-1] == f"calibration, pass {len(names)} of {len(names)}"
    same(whole, parted)


def test_several_labels_per_sample_do_not_depend_on_how_batches_are_split():
    """Damped: `theorem1` divides by sums that pass through zero, where the rounding of the factors would show."""
    words = ["score.samples_per_input=2", "score.damping=0.001"]
    per_sample = tuple(name for name in CRITERIA if name != "inf-cp")  # which takes one value per batch
    whole, _ = found(opened(*words), per_sample)
    one, _ = found(opened("score.damping=0.001"), per_sample)
    assert not torch.allclose(one["gate"].values["conv1"], whole["gate"].values["conv1"], rtol=0.01)
    for less in (f"score.memory={gib(opened(), 0.6, 4)}", "data.batch_size=5"):
        same(whole, found(opened(*words, less), per_sample)[0])


def test_batches_are_split_before_passes_are_added():
    large = ["data.calibration=256", "data.batch_size=256"]
    again = opened(*large, f"score.memory={gib(opened(), 1.0, 200)}")
    needs = measure.needs_of(CRITERIA)
    rest, parted = planned_passes(again, CRITERIA, needs)
    assert (rest.criteria, rest.batch) == (("inf-cp", "magnitude"), None)  # one value per batch; no data
    assert (parted.criteria, parted.batch) == (("influence", "theorem1", "gate", "taylor"), 200)
    same(found(opened(*large))[0], found(again)[0])


def test_nothing_is_estimated_for_what_needs_no_data(monkeypatch):
    bench = opened("score.memory=1e-9")
    monkeypatch.setattr(measure, "collect", None)
    [only] = planned_passes(bench, ("magnitude",), frozenset())
    assert only.batch is None


def test_calibrated_scores_keep_all_moments():
    """The curves measure every layer with the inputs of all: the last pass collects them."""
    words = ["prune.scope=calibrated", f"score.memory={gib(opened(), 1.0, 64)}", "score.trial_samples=16"]
    bench = opened(*words, "data.calibration=96", "data.batch_size=96")
    one, needs = {"influence"}, measure.needs_of(["influence"]) | {Need.MOMENTS}
    [only] = planned_passes(bench, tuple(one), needs)
    assert only.batch == 64
    assert only.layers == bench.layers
    assert Need.MOMENTS in only.needs
    assert found(bench, ("influence",))[0]["influence"].curves.keys() == {layer.name for layer in bench.layers}


def test_factors_are_gone_before_the_next_pass_makes_its_own(monkeypatch):
    bench = opened(f"score.memory={gib(opened(), 0.0, 4)}")
    alive, kept, collect = [], [], score.collect

    def spying(*args, **options):
        gc.collect()
        alive.append(sum(reference() is not None for reference in kept))
        made = collect(*args, **options)
        kept[:] = [weakref.ref(factors) for factors in made.kronecker.values()]
        assert kept
        return made

    monkeypatch.setattr(score, "collect", spying)
    scored(bench, ("influence",), 0, Silent())
    assert len(alive) > 2
    assert not any(alive)


def test_every_layer_is_in_one_part():
    bench = opened()
    whole = estimated(bench, 16)
    assert sum(whole.shares.values()) == whole.factors
    for share in (0.2, 0.5, 0.9):
        budget = gib(bench, share, 4) * 2**30
        plan = planned(whole, bench.layers, budget)
        assert [layer.name for part in plan.parts for layer in part] == [layer.name for layer in bench.layers]
        assert len(plan.parts) > 1
        widest = max(planned(whole, [layer, layer], 0).factors for layer in bench.layers)
        assert plan.factors <= max(share * whole.factors, widest)
        assert plan.peak <= max(budget, planned(whole, bench.layers, 0).peak)


def refusal(*words, criteria=("influence",)):
    bench = opened(*words)
    with pytest.raises(ConfigError) as refused:
        planned_passes(
            bench, criteria, measure.needs_of(criteria) | ({Need.MOMENTS} if "calibrated" in words[0] else set())
        )
    return str(refused.value)


@pytest.mark.parametrize("scope", ["global", "calibrated"])
def test_a_budget_for_less_than_the_smallest_parts_is_refused_with_what_they_take(scope):
    word = f"prune.scope={scope}"
    told = refusal(word, "score.memory=0.005")
    start, least = re.fullmatch(r"(.*): at least .* GiB are needed \(score.memory=(.*)\), enough for .*", told).groups()
    assert start == "scoring cannot stay within score.memory=0.005"
    assert told.endswith("score.criterion=gate needs no factors and fits")
    assert ("3 passes over the data" in told) == (scope == "global")
    scored(opened(word, f"score.memory={least}", "score.trial_samples=16"), ("influence",), 0, Silent())
    less = float(least) - 1e-4
    assert f"score.memory={least}" in refusal(word, f"score.memory={less}")


def test_factors_of_all_layers_at_once_may_be_what_is_too_much():
    told = refusal("prune.scope=calibrated", "score.memory=0.01")
    assert "; prune.scope=global fits, in 3 passes over the data" in told


def test_whole_batches_are_refused_with_the_batch_size_that_fits():
    for criteria in (("inf-cp",), ("inf-cp", "gate")):
        told = refusal("prune.scope=global", "score.memory=0.0015", criteria=criteria)
        assert told == "scoring cannot stay within score.memory=0.0015: data.batch_size=7 fits"
    planned_passes(opened("score.memory=0.0015", "data.batch_size=7"), ("inf-cp",), measure.needs_of(["inf-cp"]))


def test_a_device_that_seems_too_small_is_tried_in_the_smallest_parts(monkeypatch):
    monkeypatch.setattr(memory, "installed", lambda: 5 * 2**20)
    passes = planned_passes(opened("prune.scope=global"), ("influence",), measure.needs_of(["influence"]))
    assert {len(p.layers) for p in passes} == {1}
    assert {p.batch for p in passes} == {1}
