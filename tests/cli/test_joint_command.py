"""`prune --method` and `finetune --method`: pruning that is learned while fine-tuning."""

import json
import re

import pytest
import torch

import infprune as package
from infprune.config import shipped
from infprune.data import splits
from infprune.data.dataset import ArrayDataset, Source
from infprune.data.loaders import batches
from infprune.evaluation import evaluate
from infprune.training import Plugin
from runs import SMALL, call

LEARN = ["finetune.epochs=3", "joint.epochs=2", *SMALL]


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """One network pruned by INF-CP: (folder, JSON)."""
    folder = tmp_path_factory.mktemp("joint")
    outcome = call("prune", "--method", "inf-cp", "--rate", 0.4, f"run.dir={folder}", "--json", *LEARN)
    assert outcome.code == 0, outcome.err
    return folder, outcome.json


def test_the_result_tells_the_whole_story(joint):
    folder, result = joint
    assert result["channels"] == {"before": 384, "after": 231}  # 0.4 x 384 = 153.6, never over
    assert (result["criterion"], result["scope"], result["compensate"]) == ("inf-cp", "global", "none")
    trace = result["joint"]
    assert (trace["method"], trace["learning"]) == ("inf-cp", 2)
    assert [e["epoch"] for e in trace["epochs"]] == [1, 2, 3]
    assert 0 < trace["handover"] < 1e-5
    assert trace["masks"][-1]["removed"] == pytest.approx(result["rate_achieved"], abs=1e-6)
    assert set(trace["masks"][0]["layers"]["conv1"]) == {"removed", "lambda", "beta", "binarity"}
    assert result["accuracy"]["finetuned"] > 0.9
    assert (folder / "joint.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "result.json").read_text()) == result


def test_the_file_reloads_and_repeats_its_accuracy(joint):
    folder, result = joint
    module = package.load(folder / "pruned.safetensors")
    data = splits.load("digits", None, None, download=False, args={}, validation=0.1, seed=0)
    assert evaluate(module, batches(data.test, 512)).accuracy == result["accuracy"]["finetuned"]


def test_the_run_folder_replays_to_the_same_bytes(joint, infprune, tmp_path):
    folder, _ = joint
    outcome = infprune("prune", "-c", folder / "config.yaml", "run.dir=again", "-q")
    assert outcome.code == 0
    assert (tmp_path / "again" / "pruned.safetensors").read_bytes() == (folder / "pruned.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [30, 52])  # steps: while learning (40), and of the rest
def test_resumed_after_an_interruption_gives_the_same_bytes(stop, joint, infprune, tmp_path, monkeypatch):
    folder, _ = joint
    words = ["--method", "inf-cp", "--rate", 0.4, "run.dir=r", "-q", *LEARN]
    count = [0]

    def counted(self, module):
        count[0] += 1
        if count[0] == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        from infprune.joint import InfCp  # noqa: PLC0415 - patched for this test alone

        inner = InfCp.observe
        m.setattr(InfCp, "observe", lambda self, module: (counted(self, module), inner(self, module))[1])
        m.setattr(Plugin, "observe", counted)
        assert infprune("prune", *words).code == 130
    assert not (tmp_path / "r" / "pruned.safetensors").exists()
    assert infprune("prune", *words, "--resume").code == 0
    assert (tmp_path / "r" / "pruned.safetensors").read_bytes() == (folder / "pruned.safetensors").read_bytes()


def test_people_see_masks_and_the_surgery(joint, infprune):
    folder, _ = joint
    outcome = infprune("finetune", folder / "pruned.safetensors", "--method", "inf-cp", "--macs", 0.8, *LEARN)
    assert outcome.code == 0, outcome.err
    assert "masks after 2 of 3 epochs" in outcome.out
    assert "Surgery changed the outputs by" in outcome.out


def test_finetune_prunes_a_file_on(joint, infprune, tmp_path):
    folder, before = joint
    words = ["--method", "inf-cp", "--rate", 0.3, "-o", "more.safetensors", "--json", *LEARN]
    outcome = infprune("finetune", folder / "pruned.safetensors", *words)
    assert outcome.code == 0, outcome.err
    module = package.load(tmp_path / "more.safetensors")
    small = package.load(folder / "pruned.safetensors")
    assert sum(p.numel() for p in module.parameters()) < 0.8 * sum(p.numel() for p in small.parameters())
    again = infprune("evaluate", tmp_path / "more.safetensors", "--json").json
    assert again["accuracy"] == again["recorded"] == outcome.json["accuracy"]["after"]
    assert outcome.json["accuracy"]["before"] == before["accuracy"]["finetuned"]
    assert (tmp_path / "more.joint.png").is_file()


def test_plain_finetuning_of_such_a_file_cuts_nothing(joint, infprune, tmp_path):
    folder, _ = joint
    outcome = infprune("finetune", folder / "pruned.safetensors", "finetune.epochs=1", "-o", "t.safetensors", "--json")
    assert outcome.json["joint"] is None
    small, tuned = package.load(folder / "pruned.safetensors"), package.load(tmp_path / "t.safetensors")
    assert [p.shape for p in small.parameters()] == [p.shape for p in tuned.parameters()]


def test_slimming_is_the_same_seam(infprune):
    outcome = infprune("prune", "--method", "slimming", "--rate", 0.3, "joint.l1=0.001", "--json", *LEARN)
    result = outcome.json
    assert outcome.code == 0
    assert result["criterion"] == "bn-scale"
    assert result["joint"]["masks"] == []
    assert result["joint"]["handover"] is None
    assert result["accuracy"]["finetuned"] > 0.9


def test_midway_scores_and_compensates_the_network_that_was_trained_on(infprune):
    outcome = infprune("prune", "--method", "midway", "--rate", 0.4, "--criterion", "gate", "--json", *LEARN)
    result = outcome.json
    assert outcome.code == 0
    assert (result["criterion"], result["scope"], result["compensate"]) == ("gate", "calibrated", "ls+bn")
    assert result["channels"]["after"] == 231
    assert [e["epoch"] for e in result["joint"]["epochs"]] == [1, 2, 3]
    accuracy = result["accuracy"]
    assert accuracy["compensated"] > accuracy["cut"]
    assert accuracy["finetuned"] > 0.97


def test_a_file_made_otherwise_is_pruned_on_all_the_same(infprune, tmp_path):
    """Its scores file may be gone, and the shares of single layers were meant for the dense network."""
    assert infprune("score", "-o", "s.safetensors", "score.criterion=magnitude", "-q", *SMALL).code == 0
    made = ["--scores", "s.safetensors", "--rate", 0.4, "prune.per_layer={stages.2.conv1: 0.9}", "-o", "p.safetensors"]
    assert infprune("prune", *made, "--compensate", "none", "-q", *SMALL).code == 0
    (tmp_path / "s.safetensors").unlink()
    words = ["--method", "midway", "--rate", 0.1, "-o", "m.safetensors", "-q", *LEARN]
    outcome = infprune("finetune", "p.safetensors", *words, "prune.compensate=none", "score.criterion=magnitude")
    assert outcome.code == 0, outcome.err
    before, after = (package.load(tmp_path / f"{name}.safetensors") for name in "pm")
    widths = [m.get_submodule("stages.2.conv1").out_channels for m in (before, after)]
    assert widths[1] > 0.5 * widths[0]  # not 90 % once more


def test_a_configuration_without_a_budget_is_not_one(joint, infprune, tmp_path):
    folder, _ = joint
    (tmp_path / "c.yaml").write_text("finetune: {method: inf-cp}")
    outcome = infprune("finetune", folder / "pruned.safetensors", "-c", "c.yaml", "-q")
    assert outcome.code == 2
    assert "say how far, e.g. --rate 0.3" in outcome.err


def test_a_report_refuses_a_method(infprune):
    outcome = infprune("report", "finetune.method=midway", "-q", *SMALL)
    assert outcome.code == 2
    assert "report cuts by scores, not by midway" in outcome.err


PLAIN = ["model.name=alexnet5", "model.checkpoint=random", "data.factory=test_joint_command:greys"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--method", "infcp"], 2, "finetune.method: expected one of standard, midway, inf-cp, slimming, got 'infcp'"),
        (["--method", "inf-cp", "joint.epochs=9"], 2, "joint.epochs: expected 1 to 2 (finetune.epochs), got 9"),
        (["--method", "inf-cp", "finetune.epochs=0"], 2, "joint.epochs: expected 1 to 0 (finetune.epochs), got 0"),
        (["--method", "inf-cp", "--latency", 0.5], 2, "prune.latency: inf-cp cannot learn it; use prune.macs"),
        (["--method", "inf-cp", "--max-drop", 0.1], 2, "prune.max_drop: inf-cp cannot search the rate"),
        (
            ["--method", "midway", "--scores", "x.safetensors"],
            2,
            "score.file: midway trains the network before it is cut",
        ),
        (["--method", "inf-cp", "--macs", 0.0001], 4, "is out of reach"),
        (["--method", "slimming", *PLAIN], 2, "bn-scale: expected a batch norm behind every prunable layer"),
        (["--method", "inf-cp", "joint.beta=0"], 2, "joint.beta: expected a number > 0"),
    ],
)
def test_bad_input_is_one_line(words, code, text, infprune, tmp_path):
    outcome = infprune("prune", *words, "-q", *SMALL)
    assert outcome.code == code
    assert text in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_is_not_pruned_on_by_the_budget_that_made_it(joint, infprune):
    folder, _ = joint
    outcome = infprune("finetune", folder / "pruned.safetensors", "--method", "inf-cp", "-q")
    assert outcome.code == 2
    assert "say how far, e.g. --rate 0.3" in outcome.err


# --- the shipped configurations


def greys():
    x = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(x, torch.arange(32) % 10)
    return Source(train=data, test=data, classes=10, input_shape=(1, 28, 28))


def colours():
    x = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(x, torch.arange(48) % 10)
    return Source(train=data, test=data, classes=10, input_shape=(3, 32, 32))


INF_CP = sorted(name for name in shipped() if name.endswith("infcp"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "cifar10-resnet56-infcp" else pytest.mark.slow) for n in INF_CP]
)
def test_shipped_configurations_run_a_few_steps(name, infprune):
    words = ["data.factory=test_joint_command:colours", "model.checkpoint=random", "data.batch_size=16"]
    shrunk = ["finetune.epochs=2", "joint.epochs=1"]
    outcome = infprune("prune", "-c", name, "--json", *words, *shrunk)
    assert outcome.code == 0, outcome.err
    result = outcome.json
    asked = float(re.search(r"macs: (\S+)", shipped()[name].read_text())[1])
    assert 0.9 * asked < result["macs"]["after"] / result["macs"]["before"] <= asked
    assert result["joint"]["handover"] < 1e-4
