"""`infprune unlearn`: whole runs on the digits, files that reload, and what is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infprune.artifacts import read_manifest
from infprune.data.augment import AUGMENTATIONS
from infprune.data.dataset import DataRequest
from infprune.data.digits import digits
from infprune.data.subset_file import Subset, fingerprint, write_subset
from infprune.files import sha256
from infprune.unlearning import METHODS
from runs import call
from test_bad_input import one_line

SMALL = ["unlearn.samples=128", "unlearn.max_iterations=8", "unlearn.lengths=[1,4,16]", "unlearn.finetune=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network trained on digits with a backdoor, and the words that name it."""
    folder = tmp_path_factory.mktemp("trained")
    here = os.getcwd()  # noqa: PTH109 - monkeypatch is function-scoped
    os.chdir(folder)
    try:
        outcome = call("train", "-c", "digits-backdoor", "train.epochs=16", "-q", "-o", "model.safetensors")
    finally:
        os.chdir(here)
    assert outcome.code == 0, outcome.err
    return ["-c", "digits-backdoor", f"model.checkpoint={folder / 'model.safetensors'}"]


def test_a_backdoor_is_closed_and_the_file_reloads(infprune, trained):
    words = [*trained, *SMALL, "unlearn.applications=4", "unlearn.lengths=[0.5,1,2,4]", "-o", "u.safetensors"]
    outcome = infprune("unlearn", *words, "--json", "run.dir=a")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    before, after = found["before"], found["after"]
    assert before["attack_elsewhere"] > 0.8
    assert after["attack_elsewhere"] < 0.3
    assert after["relabelled"] > before["relabelled"] + 0.5
    assert after["kept"] > before["kept"] - 0.05
    assert found["parameters_changed"] < 0.25 * found["parameters"]
    assert found["samples"] == {"forget": 113, "kept": 1037, "hessian": 128}
    best = [t for t in found["trials"] if t["chosen"]]
    assert [t["application"] for t in best] == list(range(1, len(best) + 1))
    assert [t["score"] for t in best] == sorted(t["score"] for t in best)
    again = infprune("evaluate", "u.safetensors", "--json")
    assert again.json["accuracy"] == again.json["recorded"] == after["accuracy"]
    assert read_manifest("u.safetensors").metrics["unlearned"] == "backdoor by gif"
    for file in found["files"]:
        assert os.path.getsize(file) > 500  # noqa: PTH202

    first = sha256("u.safetensors")
    resumed = infprune("unlearn", *words, "--json", "run.dir=a", "--resume").json
    assert sha256("u.safetensors") == first
    for key in ("after", "trials", "applications"):
        assert resumed[key] == found[key]
    other = infprune("unlearn", *words, "unlearn.ratio=0.3", "run.dir=a", "--resume")
    assert other.code == 2
    assert "measured with other settings" in one_line(other)
    store = Path("a/applications.json")
    content = json.loads(store.read_text())
    one = content["measurements"]["1"]
    for damage in ({}, 5, one | {"trials": [{}]}, one | {"damping": "x"}, one | {"application": {"length": 1.0}}):
        store.write_text(json.dumps(content | {"measurements": {"1": damage}}))
        damaged = infprune("unlearn", *words, "run.dir=a", "--resume")
        assert damaged.code == 6
        assert "applications.json: it is damaged" in one_line(damaged)


def test_an_interrupted_run_goes_on(infprune, trained, monkeypatch):
    words = [*trained, *SMALL, "unlearn.applications=3", "unlearn.lengths=[0.5,1,2]"]
    assert infprune("unlearn", *words, "run.dir=whole", "-q").code == 0
    made, real = [], METHODS["gif"]

    def killed(near):
        made.append(near)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(near)

    monkeypatch.setitem(METHODS, "gif", killed)
    outcome = infprune("unlearn", *words, "run.dir=r")
    assert (outcome.code, "interrupted" in one_line(outcome)) == (130, True)
    assert not Path("r/unlearned.safetensors").exists()
    assert infprune("unlearn", *words, "run.dir=r", "--resume", "-q").code == 0
    assert len(made) == 4  # the third application alone was made again
    assert sha256("r/unlearned.safetensors") == sha256("whole/unlearned.safetensors")


@pytest.mark.slow
def test_a_class_of_a_pruned_file_with_all_comparisons(infprune, trained):
    cut = infprune("prune", *trained, "--rate", "0.3", "-q", "-o", "p.safetensors", "data.calibration=128")
    assert cut.code == 0, cut.err
    words = ["p.safetensors", "--forget", "class:3", *SMALL, "unlearn.finetune=true", "finetune.epochs=1"]
    outcome = infprune("unlearn", *words, "unlearn.applications=2", "--ratio", 0.4, "run.dir=b")
    assert outcome.code == 0, outcome.err
    found = json.loads(Path("b/unlearn.json").read_text())
    assert found["after"]["forgotten"] < 0.5 < found["before"]["forgotten"]
    assert found["after"]["attack"] is found["after"]["relabelled"] is None
    for text in (
        "before",
        "after",
        "fine-tuned",
        "membership AUC",
        "Application 1: ",
        "chosen on the validation split",
    ):
        assert text in outcome.out
    manifest = read_manifest("b/unlearned.safetensors")
    assert manifest.kept == read_manifest("p.safetensors").kept
    assert manifest.metrics["accuracy"]["finetuned"] == found["after"]["accuracy"]
    assert infprune("evaluate", "b/unlearned.safetensors", "-q").code == 0
    refused = infprune("unlearn", *words, "--retrain")
    assert (refused.code, "drop --retrain" in one_line(refused)) == (3, True)


def test_finetuning_augments_as_training_does(infprune, monkeypatch):
    seen = []
    monkeypatch.setitem(AUGMENTATIONS, "crop", lambda x, **_: seen.append(len(x)) or x)
    words = ["--forget", "class:3", *SMALL, "unlearn.applications=1", "unlearn.finetune=true", "finetune.epochs=1"]
    words += ["model.checkpoint=random", "model.args={widths: [4]}", "data.augment=crop", "--json"]
    samples = infprune("unlearn", *words).json["samples"]
    assert sum(seen) == samples["hessian"] + samples["forget"]  # all that it is fine-tuned on, once


@pytest.mark.slow
def test_against_retraining(infprune, trained):
    words = ["--forget", "class:3", *SMALL, "unlearn.applications=1", "--retrain", "train.epochs=3"]
    words += ["run.dir=anew"]
    result = infprune("unlearn", *trained, *words, "--json").json
    found, seconds = result["retrained"], result["seconds"]
    assert found["quality"]["forgotten"] == 0.0
    assert 0.3 < found["agreement"] < 1
    assert found["time_ratio"] == pytest.approx((seconds["select"] + seconds["unlearn"]) / seconds["retrain"], 0.02)
    anew = torch.load("anew/retrain.ckpt", weights_only=True)["module"]
    was, now = load_file(trained[-1].partition("=")[2]), load_file("anew/unlearned.safetensors")
    names = [n for n in now if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    far, near = (torch.cat([(w[n] - anew[n]).flatten() for n in names]).norm() for w in (was, now))
    assert found["distance"] == pytest.approx(float(near / far), rel=1e-5)
    assert found["distance"] != 1.0
    again = infprune("unlearn", *trained, *words, "--resume", "--json").json["retrained"]
    assert again["time_ratio"] is None  # another process did the work
    assert again["quality"] == found["quality"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fif", "pif", "if", "second-order"])
def test_every_method_runs(infprune, trained, method):
    words = [*SMALL, "--forget", "class:3", "--method", method, "unlearn.applications=1", "unlearn.selection=influence"]
    outcome = infprune("unlearn", *trained, *words, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    whole = method in ("if", "second-order")
    assert (found["selection"] is None) == whole
    assert (found["parameters_changed"] == found["parameters"]) == (whole and bool(found["applications"][0]["length"]))


def subset(path, indices, **changes):
    """A subset file of the plain digits."""
    train = digits(DataRequest("digits", None, download=False, args={})).train
    values = {"samples": len(train), "data_sha256": fingerprint(train)} | changes
    write_subset(path, Subset(torch.tensor(indices), **values))
    return f"file:{path}"


PLAIN = ["data.name=digits"]


def test_samples_of_a_subset_file(infprune, trained, tmp_path):
    word = subset(tmp_path / "f.json", list(range(40)))
    outcome = infprune("unlearn", *trained, *PLAIN, "--forget", word, *SMALL, "unlearn.applications=1", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert found["samples"]["forget"] + found["unseen"] == 40
    assert found["unseen"] > 0
    assert found["after"]["forgotten"] is not None


def test_bare_indices_and_a_list_that_changes_between_runs(infprune, trained, tmp_path):
    """The same samples are the same run, whatever file names them; others are another run."""
    words = [*trained, *PLAIN, *SMALL, "unlearn.applications=1", "run.dir=r", "--json"]
    Path("f.txt").write_text("\n".join(map(str, range(40))))
    first = infprune("unlearn", *words, "--forget", "file:f.txt")
    assert first.code == 0, first.err
    assert first.json["samples"]["forget"] + first.json["unseen"] == 40
    again = infprune("unlearn", *words, "--resume", "--forget", subset(tmp_path / "f.json", list(range(40)))).json
    assert (again["applications"], again["after"]) == (first.json["applications"], first.json["after"])
    Path("f.txt").write_text("41, 42, 43")
    other = infprune("unlearn", *words, "--resume", "--forget", "file:f.txt")
    assert (other.code, "measured with other settings" in one_line(other)) == (2, True)


def refused(infprune, code, *words):
    outcome = infprune("unlearn", *words)
    assert outcome.code == code
    return one_line(outcome)


def test_bad_input(infprune, trained, tmp_path):
    def told(code, *words):
        return refused(infprune, code, *trained, *words)

    assert "there is no class 12; digits_backdoor has 0 to 9" in told(2, "--forget", "class:12")
    assert "unlearn.forget: expected class:N, file:PATH or backdoor, got 'klass:1'" in told(2, "--forget", "klass:1")
    assert "say what to forget" in told(2, "unlearn.forget=null")
    assert "digits has no backdoor; use mnist_backdoor" in told(2, *PLAIN, "--forget", "backdoor")
    assert "unlearn.ratio: expected a number in (0, 1], got 0.0" in told(2, "--ratio", 0)
    assert "unlearn.ratio: expected a number in (0, 1], got 1.5" in told(2, "--ratio", 1.5)
    assert "is a checkpoint of another architecture" in told(6, "model.name=digits_resnet", "model.args={}")
    assert "got 'giff'; did you mean gif?" in told(2, "--method", "giff")
    assert "got 'gradient-hihg'; did you mean gradient-high?" in told(2, "--selection", "gradient-hihg")
    file = tmp_path / "f.json"
    everything = subset(file, list(range(1438)))
    assert "every training sample is to be forgotten; train anew" in told(6, *PLAIN, "--forget", everything)
    assert "the subset is empty" in told(6, *PLAIN, "--forget", subset(file, []))
    assert "of another data set" in told(6, "--forget", subset(file, [1, 2]))
    assert "of a data set of 99 training samples" in told(6, *PLAIN, "--forget", subset(file, [1, 2], samples=99))
    assert "nowhere.json: no such file; give a subset file" in told(6, "--forget", "file:nowhere.json")
    file.write_text("1 2 1438")
    assert "f.json: expected indices in 0..1437, got 1438" in told(6, *PLAIN, "--forget", f"file:{file}")
    assert not (tmp_path / "runs").exists()


def test_nothing_that_was_trained_on(infprune, trained, tmp_path):
    """A subset file of samples that all lie in the validation split."""
    from infprune.data import splits  # noqa: PLC0415

    held = splits.load("digits", None, None, download=False, args={}, validation=0.2, seed=0).validation.indices
    word = subset(tmp_path / "f.json", held[:3].tolist())
    told = refused(infprune, 6, *trained, *PLAIN, "--forget", word)
    assert "no training sample is to be forgotten; 3 are in the validation split" in told
