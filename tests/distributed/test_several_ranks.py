"""The command line under torchrun: one writer, one voice, one result; the end of one rank is the end of all."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infprune.artifacts import read_scores
from spawned import alone, ranked

INFPRUNE = ("-m", "infprune")
SMALL = ("data.calibration=256", "data.batch_size=64", "score.trial_samples=64")
DYING = Path(__file__).with_name("dying_rank.py")
LEAVING = Path(__file__).with_name("leaving.py")


def codes(outcome):
    """The exit code of each rank, from torchrun's summary; torchrun's own is 1."""
    assert outcome.returncode == 1
    return sorted(map(int, re.findall(r"exitcode +: (-?\d+)", outcome.stderr)))


def told(outcome):
    """What the ranks themselves say on stderr when they fail."""
    return [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]


def plan(folder):
    """The channels that each layer keeps."""
    result = json.loads((folder / "run/result.json").read_text())
    return [(layer["name"], layer["kept"]) for layer in result["layers"]]


def close(a, b, tolerance=1e-5):
    one, two = load_file(a), load_file(b)
    assert one.keys() == two.keys()
    for name, t in one.items():
        assert t.shape == two[name].shape
        assert torch.allclose(two[name].double(), t.double(), rtol=0.0, atol=tolerance * float(t.abs().max())), name


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The folders of one process and of two ranks, each with a pruned network, and what they printed."""
    folders = []
    for run in (alone, ranked):
        folder = tmp_path_factory.mktemp(run.__name__)
        outcome = run(folder, *INFPRUNE, "prune", *SMALL, "-o", "small.safetensors", "run.dir=run", "--json")
        assert outcome.returncode == 0, outcome.stderr
        (folder / "out").write_text(outcome.stdout)
        folders.append(folder)
    return folders


@pytest.mark.slow
def test_prune_makes_the_same_plan_and_network(pruned):
    one, two = pruned
    assert plan(one) == plan(two)
    close(one / "small.safetensors", two / "small.safetensors")


@pytest.mark.slow
def test_one_rank_prints_and_writes(pruned):
    results = [json.loads((folder / "out").read_text()) for folder in pruned]  # one object
    assert results[0]["accuracy"] == pytest.approx(results[1]["accuracy"])
    files = [sorted(str(f.relative_to(folder)) for f in folder.rglob("*")) for folder in pruned]
    assert files[0] == files[1]


def test_a_killed_rank_ends_all(tmp_path):
    outcome = ranked(tmp_path, DYING, "score", *SMALL, "-o", "scores.safetensors", "run.dir=run")
    assert codes(outcome) == [-9, 130]
    assert len(told(outcome)) == 1
    assert "another rank" in told(outcome)[0]
    assert "Traceback" not in outcome.stderr.partition("torch/distributed/elastic")[0]
    assert list(tmp_path.iterdir()) == []


def test_ranks_leave_before_python_takes_itself_apart(tmp_path):
    outcome = ranked(tmp_path, LEAVING, 3, "join")
    assert codes(outcome) == [3, 3]
    assert (outcome.stdout.count("registered"), outcome.stdout.count("told")) == (2, 2)  # lines of ranks may mix
    assert alone(tmp_path, LEAVING, 3).returncode == -signal.SIGABRT  # the check can fail: one process goes on


@pytest.mark.slow
def test_a_rank_killed_in_its_own_training_ends_all(tmp_path):
    words = ("--method", "memorisation", "samples.subsets=2", "samples.share=0.5", "train.epochs=1", "run.dir=run")
    outcome = ranked(tmp_path, DYING, "data", "score", *words)
    assert codes(outcome) == [-9, 130]
    assert len(told(outcome)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["influence", "gate", "inf-cp"])
def test_score(tmp_path, criterion):
    for name, run in (("one", alone), ("two", ranked)):
        words = ("score", *SMALL, "data.positions=9", "--criterion", criterion, "-o", f"{name}.safetensors")
        outcome = run(tmp_path, *INFPRUNE, *words, f"run.dir={name}")
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stdout.count(criterion) == 1
        assert outcome.stderr.count('stage="calibration" done=0') == 1
    (one, _), (two, _) = (read_scores(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for name, values in one.values.items():
        assert torch.allclose(values, two.values[name], rtol=1e-5, atol=1e-6 * float(values.abs().max()))
        assert two.curves[name].loss == pytest.approx(one.curves[name].loss, rel=1e-4)


@pytest.mark.slow
def test_finetune_and_resume(pruned, tmp_path):
    one, _ = pruned
    words = ("finetune", one / "small.safetensors", "finetune.epochs=2", "--quiet", "-o")
    for name, run in (("one", alone), ("two", ranked)):
        outcome = run(tmp_path, *INFPRUNE, *words, f"{name}.safetensors", f"run.dir={name}")
        assert (outcome.returncode, outcome.stdout) == (0, ""), outcome.stderr
    close(tmp_path / "one.safetensors", tmp_path / "two.safetensors", 1e-4)
    # What one process has done, two ranks find done.
    again = ranked(tmp_path, *INFPRUNE, *words, "again.safetensors", "run.dir=one", "--resume")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


@pytest.mark.slow
def test_report(tmp_path):
    for name, run in (("one", alone), ("two", ranked)):
        words = ("report", "--rates", "0.3,0.6", "--criteria", "influence,taylor", "--seeds", "1", *SMALL)
        outcome = run(tmp_path, *INFPRUNE, *words, f"run.dir={name}")
        assert outcome.returncode == 0, outcome.stderr
    one, two = (json.loads((tmp_path / name / "report.json").read_text())["rows"] for name in ("one", "two"))
    assert one == two
    names = [sorted(f.name for f in (tmp_path / name).rglob("*")) for name in ("one", "two")]
    assert names[0] == names[1]


# Slimming cuts without compensation: the epoch after it blows rounding errors up a hundredfold.
@pytest.mark.slow
@pytest.mark.parametrize(("method", "tolerance"), [("midway", 1e-3), ("slimming", 3e-2)])
def test_pruning_while_training(tmp_path, method, tolerance):
    for name, run in (("one", alone), ("two", ranked)):
        words = ("prune", "--method", method, "finetune.epochs=2", "--quiet", *SMALL, "-o", f"{name}.safetensors")
        outcome = run(tmp_path, *INFPRUNE, *words, f"run.dir={name}")
        assert outcome.returncode == 0, outcome.stderr
    close(tmp_path / "one.safetensors", tmp_path / "two.safetensors", tolerance)


FAULTS = {
    "a config fault": (("score", "data.calibratio=3"), 2, "did you mean data.calibration?"),
    "too few batches": (("score", "data.calibration=64", "data.batch_size=64"), 2, "at least 2 batches"),
    "inf-cp": (("prune", "--method", "inf-cp"), 2, "inf-cp learns its masks in one process"),
    "trainings in processes": (("data", "score", "samples.workers=2"), 2, "2 ranks share the trainings, got 2"),
    "lissa": (("data", "score", "--method", "influence", "influence.solver=lissa"), 2, "lissa draws batches in one"),
    "data prune": (("data", "prune", "none.safetensors"), 2, "data_prune runs in one process"),
    "another command": (("doctor",), 2, "doctor runs in one process; start it without torchrun"),
    "a GPU for all": (("score", "--device", "cpu:1"), 2, "run.device"),
    "an infeasible budget": (("prune", "--macs", "0.0001", *SMALL), 4, "floor"),
    "no place to write": (("score", *SMALL, "-o", "/dev/null/scores.safetensors"), 6, "cannot write"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_once(tmp_path, fault):
    words, code, message = FAULTS[fault]
    outcome = ranked(tmp_path, *INFPRUNE, *words)
    assert set(codes(outcome)) == {code}
    assert message in told(outcome)[0]
    assert len(told(outcome)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_missed_gate(tmp_path):
    words = ("prune", *SMALL, "--min-accuracy", "0.9999", "-o", "small.safetensors", "run.dir=run")
    outcome = ranked(tmp_path, *INFPRUNE, *words)
    assert codes(outcome) == [5]
    assert told(outcome) == [line for line in told(outcome) if "below --min-accuracy" in line]
    assert (tmp_path / "small.safetensors").exists()
    assert (tmp_path / "run/result.html").exists()
