"""`infprune trace`: whole runs, their files, and what users get wrong."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infprune import config, training
from infprune.data.dataset import DataRequest, Part, labels
from infprune.data.digits import digits
from infprune.pipeline import trace
from infprune.pipeline.stages import open_stages
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from runs import call
from test_bad_input import one_line

FAST = ["model.args={widths: [3, 4], kernel: 3, padding: 1, pixels: 8}", "trace.max_iterations=60", "trace.rtol=1e-2",
        "trace.hessian_samples=100", "trace.finetune_samples=300", "train.epochs=8", "finetune.epochs=15"]  # fmt: skip
TWO = ["trace", "-c", "digits-two-stage", *FAST, "--top", "3"]
LOOSE = [*TWO, "train.epochs=1", "finetune.epochs=1", "trace.max_iterations=3"]  # for other things than the scores
FEW = ["trace.hessian_samples=20", "trace.finetune_samples=60"]  # for dense Hessians
UNTRAINED = ["trace", "-c", "digits-two-stage", "train.epochs=0", "finetune.epochs=0", "trace.max_iterations=1"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run for all tests that only read it: (folder, JSON)."""
    folder = tmp_path_factory.mktemp("traced")
    here = os.getcwd()  # noqa: PTH109 - monkeypatch is function-scoped
    os.chdir(folder)
    try:
        outcome = call(*TWO, "--test", 3, "--json", "run.dir=run")
    finally:
        os.chdir(here)
    assert outcome.code == 0, outcome.err
    return folder, outcome.json


def test_a_prediction_is_traced(done):
    folder, result = done
    first, second = result["stages"]
    assert (first["labels"], second["labels"]) == ([0, 1, 2, 3], [4, 5, 6, 7, 8, 9])
    assert (first["trained"], first["parameters"], second["trained"], second["parameters"]) == (210, 210, 102, 244)
    assert first["accuracy"] > 0.9
    assert second["accuracy"] > 0.7
    assert (result["case"], result["head"], result["frozen"]) == (1, ["linear"], ["embedding.0", "embedding.3"])
    assert result["test"]["samples"] == 1
    assert result["test"]["label"] in second["labels"]
    assert result["examples"] == first["samples"] == 518
    assert [row["rank"] for row in result["rows"]] == [1, 2, 3, 516, 517, 518]
    influence = [row["influence"] for row in result["rows"]]
    assert influence == sorted(influence, reverse=True)
    assert influence[0] > 0 > influence[-1]
    for row in result["rows"]:
        assert row["removal"] == pytest.approx(-row["influence"] / 518)
    assert [s["outcome"] for s in result["solves"]] == ["converged", "converged"]
    stored = json.loads((folder / "run/trace.json").read_text())
    assert {**stored, "files": 0} == {**result, "files": 0}


def test_the_files(done):
    folder, result = done
    names = {str(Path(f).relative_to("run")) for f in result["files"]}
    figures = {f"figures/{n}.{kind}" for n in ("distribution", "identity") for kind in ("svg", "png")}
    assert names == {"trace.json", "trace.csv", "trace.html"} | figures
    assert all((folder / f).stat().st_size > 500 for f in result["files"])
    lines = list(csv.DictReader((folder / "run/trace.csv").read_text().splitlines()))
    assert [int(line["rank"]) for line in lines] == list(range(1, 519))
    assert float(lines[0]["influence"]) == result["rows"][0]["influence"]
    assert sum(abs(float(line["influence"])) for line in lines) / 518 == pytest.approx(result["mean_abs"])
    html = (folder / "run/trace.html").read_text()
    assert html.count("<img ") == 7  # three at either end, and the traced one
    assert html.count('src="data:image/png;base64,') == 7
    assert "img-src data:" in html
    test = result["test"]
    guess = "rightly predicted" if test["predicted"] == test["label"] else f"taken for a {test['predicted']}"
    assert f"test sample {test['sample']}, a {test['label']} {guess}, traced" in html
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")


def test_samples_are_those_of_the_data(done):
    """`sample` is a place in the data's own training part, whatever was held out and left out of it."""
    folder, _ = done
    y = labels(digits(DataRequest("digits", None, download=False, args={})).train)
    lines = list(csv.DictReader((folder / "run/trace.csv").read_text().splitlines()))
    assert len({line["sample"] for line in lines}) == 518
    assert all(int(y[int(line["sample"])]) == int(line["label"]) for line in lines)


def test_stages_are_taken_up_and_the_configuration_replays(infprune, done):
    folder, result = done
    shutil.copytree(folder / "run", "run")
    for kind in ("pretrain", "finetune"):
        (file,) = Path("run").glob(f"{kind}-*.ckpt")
        before = file.stat().st_mtime_ns
        Path(f"{kind}.time").write_text(str(before))
    again = infprune("trace", "-c", "run/config.yaml", "--json")
    assert again.code == 0, again.err
    assert {**again.json, "seconds": 0} == {**result, "seconds": 0}
    for kind in ("pretrain", "finetune"):
        (file,) = Path("run").glob(f"{kind}-*.ckpt")
        assert str(file.stat().st_mtime_ns) == Path(f"{kind}.time").read_text()


@pytest.mark.parametrize("epoch", [5, 17], ids=["pretraining", "fine-tuning"])
def test_an_interrupted_run_goes_on(infprune, done, monkeypatch, epoch):
    folder, result = done
    saved, real = [], training._save

    def stopped(*args):
        saved.append(args)
        if len(saved) == epoch:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(training, "_save", stopped)
    outcome = infprune(*TWO, "--test", 3, "run.dir=run")
    assert (outcome.code, "interrupted" in one_line(outcome)) == (130, True)
    assert not {p.suffix for p in Path("run").rglob("*") if p.is_file()} & {".csv", ".json", ".safetensors", ".tmp"}
    assert infprune(*TWO, "--test", 3, "-q", "run.dir=run").code == 0
    assert len(saved) == 8 + 15 + 1  # the epoch that was interrupted was made again, no other
    for name in ("pretrain.safetensors", "finetune.safetensors", "trace.csv", "config.yaml"):
        assert (Path("run") / name).read_bytes() == (folder / "run" / name).read_bytes()
    assert {**json.loads(Path("run/trace.json").read_text()), "seconds": 0, "files": 0} == {
        **result,
        "seconds": 0,
        "files": 0,
    }


def test_the_whole_test_set_is_the_sum_of_its_parts(infprune, done):
    """Eq. 9, of trained stages: the same two solves, whatever is traced."""
    folder, _ = done
    shutil.copytree(folder / "run", "run")
    settings = config.load("digits-two-stage", [*FAST, *FEW, "trace.solver=ldl", "run.dir=run"])
    stages = open_stages(settings, "trace", Stopwatch(), Silent())
    lenses, test = trace.objectives(stages), stages.finetune.test
    whole = trace.influence(stages, lenses, trace.traced(stages, None), Stopwatch(), Silent())
    parts = [Part(test, torch.arange(len(test))[at]) for at in (slice(0, 100), slice(100, None))]
    halves = [trace.influence(stages, lenses, part, Stopwatch(), Silent()) for part in parts]
    torch.testing.assert_close(whole.values, halves[0].values + halves[1].values)
    torch.testing.assert_close(whole.control, halves[0].control + halves[1].control)
    assert not torch.allclose(whole.values, 2 * halves[0].values, rtol=0.1)


def test_given_checkpoints_give_the_same_scores(infprune, done):
    folder, result = done
    words = [f"trace.{s}_checkpoint={folder}/run/{s}.safetensors" for s in ("pretrain", "finetune")]
    outcome = infprune(*TWO, "--test", 3, *words, "--json")
    assert outcome.code == 0, outcome.err
    assert not list(Path().rglob("*.ckpt"))
    same = [(r["sample"], pytest.approx(r["influence"])) for r in result["rows"]]
    assert [(r["sample"], r["influence"]) for r in outcome.json["rows"]] == same
    assert outcome.json["stages"][1]["checkpoint"] == f"{folder}/run/finetune.safetensors"


def test_every_layer_may_move(infprune):
    found = infprune(*LOOSE, "trace.frozen=[]", "--json")
    assert found.code == 0, found.err
    assert (found.json["case"], found.json["stages"][1]["trained"]) == (2, 244)
    first, second = (load_file(f"runs/tanh_cnn-trace/{s}.safetensors") for s in ("pretrain", "finetune"))
    assert not torch.equal(first["embedding.0.weight"], second["embedding.0.weight"])
    some = infprune(*LOOSE, "trace.frozen=[embedding.0]", "--json")
    assert (some.json["case"], some.json["stages"][1]["trained"]) == (0, 244 - 30)
    first, second = (load_file(f"runs/tanh_cnn-trace/{s}.safetensors") for s in ("pretrain", "finetune"))
    assert torch.equal(first["embedding.0.weight"], second["embedding.0.weight"])
    assert not torch.equal(first["embedding.3.weight"], second["embedding.3.weight"])


def test_people_read_a_table(infprune):
    found = infprune(*LOOSE)
    assert found.code == 0, found.err
    assert "215 test predictions traced to 518 pretraining examples" in found.out
    assert "Fine-tuning kept every shared layer (case 1)" in found.out
    assert "pretrain Hessian: 100 samples, normal-cg, damping 1e-06" in found.out


@pytest.mark.parametrize("solver", ["cg", "lsmr", "ldl"])
def test_other_solvers(infprune, done, solver):
    folder, _ = done
    shutil.copytree(folder / "run", "run")
    words = ["trace.pretrain_damping=0.2", "trace.finetune_damping=0.2", f"trace.solver={solver}", "run.dir=run"]
    found = infprune(*TWO, *FEW, "--test", 3, *words, "--json")
    if solver == "cg" and found.code:  # few epochs leave negative curvature; then the line says what to do
        assert found.code == 2
        assert "trace.pretrain_damping" in one_line(found) or "trace.finetune_damping" in one_line(found)
        return
    assert found.code == 0, found.err
    assert found.json["solves"][0]["solver"] == solver


BAD = {
    "test sample": (
        ["--test", "215"],
        2,
        "trace.test: expected a sample of the second stage's test part, 0 to 214, got 215",
    ),
    "negative test sample": (["--test", "-1"], 2, "trace.test: expected an integer >= 0, got -1"),
    "overlap": (["trace.finetune=[3,4]"], 2, "label 3 is in trace.pretrain as well"),
    "twice": (["trace.finetune=[4,4]"], 2, "trace.finetune: expected different labels from 0 to 9, got [4, 4]"),
    "no such class": (["trace.pretrain=[0,12]"], 2, "trace.pretrain: expected different labels from 0 to 9"),
    "one class": (["trace.pretrain=[0]"], 2, "trace.pretrain: expected a list of two or more labels >= 0, got [0]"),
    "frozen layer": (
        ["trace.frozen=[embeding.0]"],
        2,
        "no layer of the network matches 'embeding.0'; did you mean embedding.0",
    ),
    "frozen head": (["trace.frozen=['*']"], 2, "trace.frozen: linear is new in the second stage"),
    "head": (["trace.head=[classifier]"], 2, "trace.head: no layer of the network matches 'classifier'"),
    "head without a linear layer": (["trace.head=[embedding.3]"], 3, "none of embedding.3 is linear"),
    "all head": (["trace.head=['*']"], 2, "the stages share no parameter"),
    "too many samples": (
        ["trace.finetune_samples=5000"],
        2,
        "there are 776 training samples of these labels, got 5000",
    ),
    "no checkpoint": (["trace.pretrain_checkpoint=nope.pt"], 6, "no checkpoint file at nope.pt"),
    "pruning": (["finetune.method=slimming"], 2, "finetune.method: trace fine-tunes and cuts nothing"),
    "other data": (["trace.finetune_data={nme: digits}"], 2, "data.nme: unknown key; did you mean data.name?"),
    "other inputs": (["trace.finetune_data={name: breast_cancer}", "trace.finetune=null"], 3, "does not accept inputs"),
    "dense": (
        ["trace.solver=ldl", "model.args={widths: [8, 1024], kernel: 3, padding: 1, pixels: 8}"],
        2,
        "use trace.solver=normal-cg",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_words(infprune, case):
    words, code, text = BAD[case]
    outcome = infprune(*UNTRAINED, *words)
    assert text in one_line(outcome)
    assert outcome.code == code


def test_a_network_without_a_layer_to_replace(infprune, monkeypatch):
    Path("odd.py").write_text(
        "import torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self, mid):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(1, 10, 8)\n"
        "        self.mid = torch.nn.Linear(8, 8) if mid else None\n"
        "    def forward(self, x):\n"
        "        return self.conv(x if self.mid is None else self.mid(x)).flatten(1)\n"
        "def odd(mid=False):\n"
        "    return Odd(mid)\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    words = ["model.factory=odd:odd", "model.args={}"]
    outcome = infprune(*UNTRAINED, *words)
    assert (outcome.code, "the network has no linear layer" in one_line(outcome)) == (3, True)
    outcome = infprune(*UNTRAINED, *words, "model.args={mid: true}")
    assert outcome.code == 3
    one_line(outcome)


def test_a_checkpoint_that_does_not_fit(infprune, done):
    folder, _ = done
    outcome = infprune(*UNTRAINED, FAST[0], f"trace.pretrain_checkpoint={folder}/run/finetune.safetensors")
    assert outcome.code == 6
    assert "linear.weight: file (6,16), model (4,16)" in one_line(outcome)
    save_file({"x": torch.zeros(2)}, "x.safetensors")
    assert infprune(*UNTRAINED, "trace.finetune_checkpoint=x.safetensors").code == 6


def test_the_same_task_twice_if_it_is_meant(infprune):
    found = infprune(*LOOSE, "trace.finetune=[0,1,2,3]", "trace.overlap=true", "--json")
    assert found.code == 0, found.err
    assert found.json["stages"][1]["labels"] == [0, 1, 2, 3]


def test_other_data_in_the_second_stage(infprune):
    """The same data under another split: a second session, its labels may be the first one's."""
    words = ["trace.finetune_data={seed: 5}", "trace.finetune=[0,1]", "trace.finetune_samples=50"]
    found = infprune(*LOOSE, *words, "--json")
    assert found.code == 0, found.err
    assert found.json["stages"][1]["samples"] == 50
