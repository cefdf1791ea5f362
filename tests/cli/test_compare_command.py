"""`infprune compare`: its numbers against torch's, its gates and files, and what users get wrong."""

import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from safetensors.torch import load_file

import infprune as package
from forging import forged
from infprune.data import splits
from infprune.models import MODELS, SHIPPED
from test_bad_input import one_line

STORED = Path(__file__).parents[1] / "stored/v1/pruned.safetensors"


@pytest.fixture
def file(infprune, pruned, tmp_path):
    """The pruned digits network, under a short name in the current folder."""
    folder, result = pruned
    shutil.copy(folder / result["artifact"], tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def outputs():
    """Logits of the dense and of the pruned network on the test images."""
    data = splits.load("digits", None, None, download=False, args={}, validation=0.1, seed=0)
    x = torch.stack([data.test[i][0] for i in range(len(data.test))])
    dense = MODELS["digits_resnet"]().eval()
    dense.load_state_dict(load_file(SHIPPED["digits_resnet"]), strict=False)
    with torch.no_grad():
        return dense(x), package.load("p.safetensors")(x)


def test_its_numbers_are_those_of_prune_and_torch(infprune, pruned, file, tmp_path):
    result = pruned[1]
    outcome = infprune("compare", "dense", "p.safetensors", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert (found["command"], found["schema_version"], found["samples"]) == ("compare", 1, 359)
    assert (found["a"]["source"], found["b"]["source"]) == ("dense", "p.safetensors")
    assert found["a"]["accuracy"] == result["accuracy"]["dense"]
    assert found["b"]["accuracy"] == result["accuracy"]["distilled"]
    assert found["drop"] == pytest.approx(found["a"]["accuracy"] - found["b"]["accuracy"], abs=1e-12)
    for key in ("params", "macs", "bytes"):
        assert (found["a"][key], found["b"][key]) == (result[key]["before"], result[key]["after"]), key
    a, b = outputs()
    assert found["agreement"] == pytest.approx(float((a.argmax(1) == b.argmax(1)).float().mean()), abs=1e-6)
    p, q = a.double().softmax(1), b.double().softmax(1)
    assert found["kl"] == pytest.approx(float((p * (p.log() - q.log())).sum(1).mean()), rel=1e-4)
    assert found["latency_ms"]["n"] == 31
    assert found["latency_ms"]["a"]["median"] > 0
    assert (found["gates"], found["missed"]) == ([], [])
    assert [p.name for p in tmp_path.iterdir()] == ["p.safetensors"]

    back = infprune("compare", "p.safetensors", "dense", "--json").json
    assert back["drop"] == -found["drop"]
    assert back["agreement"] == found["agreement"]
    assert back["kl"] == pytest.approx(float((q * (q.log() - p.log())).sum(1).mean()), rel=1e-4)
    assert back["kl"] != pytest.approx(found["kl"], rel=1e-3)


def test_a_network_agrees_with_itself(infprune):
    found = infprune("compare", STORED, STORED, "--max-drop", 0, "--min-agreement", 1, "--json")
    assert found.code == 0, found.err
    assert (found.json["agreement"], found.json["kl"], found.json["drop"]) == (1.0, 0.0, 0.0)
    assert [gate["passed"] for gate in found.json["gates"]] == [True, True]


def test_gates_page_and_report(infprune, pruned, file, tmp_path):
    left = f"{pruned[1]['params']['after']:,}"
    words = ["compare", "dense", "p.safetensors", "--max-drop", 0.05, "--min-agreement", 1, "data.batch_size=64"]
    outcome = infprune(*words, "-o", "deep/c.md", "--junit", "c.xml")
    assert outcome.code == 5
    assert outcome.err.startswith("error: agreement 0.99")
    assert "is below --min-agreement 1" in one_line(outcome)
    assert "Quality gate passed: accuracy" in outcome.out
    assert "dense against p.safetensors on digits" in outcome.out
    assert f"│ params                │       222,570 │ {left:>13} │" in outcome.out
    page = (tmp_path / "deep/c.md").read_text()
    assert "| pass | max-drop |" in page
    assert "| **FAIL** | min-agreement |" in page
    assert f"| params | 222,570 | {left} |" in page
    replay = "$ infprune compare dense p.safetensors --max-drop 0.05 --min-agreement 1.0 data.batch_size=64"
    assert replay in page.splitlines()
    (suite,) = ET.parse(tmp_path / "c.xml").getroot()
    assert [(case.get("name"), case.find("failure") is None) for case in suite] == [
        ("max-drop", True), ("min-agreement", False)
    ]  # fmt: skip
    quiet = infprune(*words, "--json")
    assert quiet.code == 5
    assert len(quiet.json["missed"]) == 1
    assert quiet.err == ""


def test_without_gates_the_report_has_one_case(infprune, tmp_path):
    assert infprune("compare", STORED, STORED, "--junit", "c.xml", "-q").out == ""
    (suite,) = ET.parse(tmp_path / "c.xml").getroot()
    assert [case.get("name") for case in suite] == ["comparison"]


def test_the_configured_dense_network(infprune, file):
    """With -c, dense is what the configuration says, whatever the other file was cut from."""
    outcome = infprune("compare", "dense", STORED, "-c", "digits", "--json")
    assert outcome.code == 0, outcome.err
    assert (outcome.json["a"]["params"], outcome.json["b"]["params"]) == (222_570, 672)
    assert infprune("compare", "dense", "dense", "--json").json["agreement"] == 1.0


def test_a_network_of_ones_own(infprune, tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(
        "from infprune.models.digits_resnet import digits_resnet\ndef net(): return digits_resnet(widths=[4, 4])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ["model.factory=ours:net", "model.checkpoint=random"]
    cheap = ["--criterion", "random", "--scope", "global", "--compensate", "none", "-q"]
    made = infprune("prune", *mine, *cheap, "-o", "o.safetensors")
    assert made.code == 0, made.err
    refused = infprune("compare", "dense", "o.safetensors")
    assert refused.code == 2
    assert "repeat it: model.factory=ours:net" in one_line(refused)
    outcome = infprune("compare", "dense", "o.safetensors", mine[0], "--json")
    assert outcome.code == 0, outcome.err  # the random checkpoint is that of the file's seed
    assert outcome.json["a"]["params"] > outcome.json["b"]["params"]


# --- what users get wrong ---------------------------------------------------------------------------------------------

BAD = {
    "missing file": (["dense", "nope.safetensors"], 6, "nope.safetensors: no such file"),
    "no word for it": (["dnese", STORED], 6, "dnese: no such file"),
    "a scores file": (["dense", STORED.with_name("scores.safetensors")], 6, "expected a model file, got a scores file"),
    "page of another kind": (["dense", "dense", "-o", "c.txt"], 2, "--output: expected a name that ends in .md"),
    "report of another kind": (["dense", "dense", "--junit", "c.txt"], 2, "--junit: expected a name that ends in .xml"),
    "drop above one": (["dense", "dense", "--max-drop", "2"], 2, "--max-drop: expected a number in [0, 1], got 2.0"),
    "no number": (["dense", "dense", "--min-agreement", "nan"], 2, "--min-agreement: expected a number in [0, 1]"),
    "unknown key": ([STORED, STORED, "data.bach_size=3"], 2, "did you mean data.batch_size?"),
    "unknown config": ([STORED, STORED, "-c", "nope"], 2, "no such file or shipped config"),
    "weights that are gone": (["dense", STORED], 6, "small.safetensors"),
    "other weights": (
        ["dense", STORED, "model.checkpoint=random", "run.seed=5"], 6, "was not cut from the dense weights at hand"),
    "other weights, in a section": (
        ["dense", STORED, "model={checkpoint: random}", "run.seed=5"], 6, "was not cut from the dense weights at hand"),
    "no such device": ([STORED, STORED, "--device", "gpu"], 2, "run.device"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_words(infprune, tmp_path, case):
    words, code, text = BAD[case]
    outcome = infprune("compare", *words)
    assert outcome.code == code, outcome.err
    assert text in one_line(outcome)
    as_json = infprune("compare", *words, "--json").json
    assert (as_json["exit_code"], as_json["command"]) == (code, "compare")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def untrained(infprune):
    """Write a network that was not trained, as `NAME.safetensors`."""

    def write(name, *words):
        outcome = infprune("train", "train.epochs=0", "-q", "-o", f"{name}.safetensors", *words)
        assert outcome.code == 0, outcome.err
        return f"{name}.safetensors"

    return write


def test_other_classes(infprune, untrained):
    cancer = untrained("cancer", "-c", "breast-cancer")
    outcome = infprune("compare", STORED, cancer)
    assert outcome.code == 6
    assert "pruned.safetensors tells 10 classes apart, cancer.safetensors 2; compare like with like" in one_line(
        outcome
    )


def test_other_logits(infprune, untrained):
    wide = untrained("wide", "model.args={num_classes: 12, widths: [4]}")
    outcome = infprune("compare", wide, STORED)
    assert outcome.code == 6
    assert "wide.safetensors returns 12 logits" in one_line(outcome)


def test_other_inputs(infprune, file):
    forged(file, inputs=[{"shape": [1, 9, 9], "dtype": "float32"}])
    outcome = infprune("compare", STORED, "p.safetensors")
    assert outcome.code == 6
    assert "takes float32 (1, 8, 8), p.safetensors float32 (1, 9, 9)" in one_line(outcome)


def test_other_data_need_a_word(infprune, file):
    forged(file, config={"data": {"name": "fashion_mnist"}})
    outcome = infprune("compare", STORED, "p.safetensors")
    assert outcome.code == 2
    assert "made on different data" in one_line(outcome)
    assert "p.safetensors on fashion_mnist; say which to compare on, with -c or data.name=" in outcome.err
    for words in (["-c", "digits"], ["data.name=digits"], ["data={name: digits}"]):
        assert infprune("compare", STORED, "p.safetensors", "-q", *words).code == 0


def test_a_network_that_does_not_take_the_data(infprune, file):
    outcome = infprune("compare", "p.safetensors", "p.safetensors", "-c", "breast-cancer")
    assert outcome.code == 3
    assert "does not accept inputs of shape (30,)" in one_line(outcome)


def test_a_page_that_cannot_be_written(infprune, tmp_path):
    (tmp_path / "taken").write_text("x")
    outcome = infprune("compare", STORED, STORED, "-o", "taken/c.md", "--junit", "c.xml")
    assert outcome.code == 6
    assert "cannot write" in one_line(outcome)
    (suite,) = ET.parse(tmp_path / "c.xml").getroot()
    assert "cannot write" in suite[0].find("error").get("message")


def test_the_report_never_replaces_a_network(infprune, file):
    before = file.read_bytes()
    outcome = infprune("compare", "p.safetensors", "dense", "--junit", "p.safetensors")
    assert outcome.code == 2
    assert file.read_bytes() == before
