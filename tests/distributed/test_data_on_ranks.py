"""`infprune data` on two ranks gives what one process gives; trainings of any length are waited for."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from infprune.attribution.scores_file import read_sample_scores
from scored_on_ranks import CASES, INSPECTED, results, scores
from spawned import alone, ranked

HERE = Path(__file__).parent
TRAINED = {"memorisation", "out-of-fold", "el2n", "grand", "forgetting", "prototypes", "random"}  # the same bits


def on_two(folder, names):
    outcome = ranked(folder, HERE / "scored_on_ranks.py", folder, *names)
    assert outcome.returncode == 0, outcome.stderr
    assert "Warning" not in outcome.stderr


def assert_alike(one, two, name):
    """Scores, details and facts of two folders, to the rounding of sums in float64."""
    (a, _), (b, _) = (read_sample_scores(folder / name / "sample-scores.safetensors") for folder in (one, two))
    scale = 0.0 if name in TRAINED else 1e-8 * float(a.scores.abs().max())
    assert_close(b.scores, a.scores, rtol=0.0, atol=scale)
    assert torch.equal(a.indices, b.indices)
    assert a.details.keys() == b.details.keys()
    assert all(torch.equal(t, b.details[key]) for key, t in a.details.items())
    facts = [{key: v for key, v in found.facts.items() if key != "residual"} for found in (a, b)]
    assert facts[0] == facts[1]


def test_two_ranks_score_as_one_process(tmp_path):
    names = ("influence", "memorisation")
    (tmp_path / "two").mkdir()
    on_two(tmp_path / "two", names)
    scores(tmp_path / "one", names)
    for name in names:
        assert_alike(tmp_path / "one", tmp_path / "two", name)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folders of one process and of two ranks, with every case, and what else one process found."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    on_two(two, list(CASES))
    scores(one, list(CASES))
    return one, two, results(one)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_scores(both, name):
    one, two, _ = both
    assert_alike(one, two, name)


@pytest.mark.slow
def test_the_curve(both):
    one, two, found = both
    assert json.loads((two / "results.json").read_text())["curve"] == found["curve"]
    assert (one / "curve/curve.json").read_text() == (two / "curve/curve.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("asked", INSPECTED)
def test_inspections(both, asked):
    truth, found = both[2][asked], json.loads((both[1] / "results.json").read_text())[asked]
    assert found["query"]["samples"] == truth["query"]["samples"]
    assert found["query"]["loss"] == pytest.approx(truth["query"]["loss"])
    assert found["curvature"]["samples"] == truth["curvature"]["samples"]
    for a, b in zip(truth["views"], found["views"], strict=True):
        assert [row["index"] for row in a["rows"]] == [row["index"] for row in b["rows"]]
        assert [row["score"] for row in a["rows"]] == pytest.approx([row["score"] for row in b["rows"]], rel=1e-8)


@pytest.mark.slow
def test_one_writer(both):
    files = [sorted(str(f.relative_to(folder)) for f in folder.rglob("*")) for folder in both[:2]]
    files[1].remove("results.json")
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_long_training_is_waited_for(tmp_path):
    outcome = ranked(tmp_path, HERE / "waiting.py", "patient")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("met") == 2
    assert ranked(tmp_path, HERE / "waiting.py").returncode == 1  # the check can fail


@pytest.mark.slow
def test_two_ranks_go_on_where_one_process_was(tmp_path):
    words = ("-m", "infprune", "data", "score", "--method", "memorisation", "samples.subsets=3", "train.epochs=1")
    words += ("-c", "digits", "model.checkpoint=random", "data.validation=0.8")
    made = alone(tmp_path, *words, "run.dir=one", "run.threads=1")
    assert made.returncode == 0, made.stderr
    whole = (tmp_path / "one/sample-scores.safetensors").read_bytes()
    kept = tmp_path / "one/trainings.json"
    content = json.loads(kept.read_text())
    for key in ("subset 0", "subset 2"):
        del content["measurements"][key]
    kept.write_text(json.dumps(content))
    again = ranked(tmp_path, *words, "run.dir=one", "run.threads=1", "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("memorisation of") == 1
    assert (tmp_path / "one/sample-scores.safetensors").read_bytes() == whole
