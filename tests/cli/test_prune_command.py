"""`infprune prune`: the contract of its JSON, its files and its quality gates."""

import json

import pytest
import torch
from safetensors import safe_open

import infprune as package
from infprune.data import splits
from infprune.data.loaders import batches
from infprune.evaluation import evaluate
from infprune.files import sha256
from infprune.pipeline import score as score_pipeline
from runs import SMALL


def test_json_has_the_promised_keys(pruned):
    _, result = pruned
    assert result["schema_version"] == 1
    assert result["command"] == "prune"
    assert result["rate"] == 0.5
    assert result["rate_achieved"] == pytest.approx(0.5, abs=1 / 384)
    assert result["criterion"] == "influence"
    for name in ("channels", "params", "macs", "bytes"):
        assert result[name]["before"] > result[name]["after"] > 0, name
    assert result["channels"] == {"before": 384, "after": 192}
    assert set(result["latency_ms"]) == {"before", "after"}
    assert set(result["accuracy"]) == {"dense", "cut", "compensated", "distilled", "finetuned"}
    assert result["accuracy"]["finetuned"] is None
    assert 0 < result["verified"]["max_relative_error"] <= 1e-5
    assert result["verified"]["groups_frozen"] == []
    assert {"load", "coupling", "score", "cut", "compensate", "write"} <= set(result["seconds"])


def test_the_default_loses_at_most_a_point(pruned):
    _, result = pruned
    assert result["accuracy"]["dense"] > 0.98
    assert result["accuracy"]["dense"] - result["accuracy"]["distilled"] <= 0.01


def test_the_artifact_reloads_without_the_pipeline(pruned):
    folder, result = pruned
    module = package.load(folder / result["artifact"])
    assert sum(p.numel() for p in module.parameters()) == result["params"]["after"]
    data = splits.load("digits", None, None, download=False, args={}, validation=0.1, seed=0)
    assert evaluate(module, batches(data.test, 512)).accuracy == result["accuracy"]["distilled"]


def test_the_run_folder_replays_to_the_same_bytes(pruned, infprune, tmp_path):
    folder, result = pruned
    again = infprune("prune", "-c", folder / result["run_dir"] / "config.yaml", "-o", "again.safetensors", "-q")
    assert again.code == 0
    assert (tmp_path / "again.safetensors").read_bytes() == (folder / result["artifact"]).read_bytes()


def test_the_manifest_tells_the_whole_story(pruned):
    folder, result = pruned
    with safe_open(folder / result["artifact"], framework="pt") as file:
        manifest = json.loads(file.metadata()["infprune"])
    assert manifest["name"] == "digits_resnet"
    assert manifest["inputs"] == [{"shape": [1, 8, 8], "dtype": "float32"}]
    assert len(manifest["base_sha256"]) == 64
    assert manifest["metrics"]["accuracy"]["distilled"] == result["accuracy"]["distilled"]
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert sum(manifest["plan"].values()) == result["channels"]["after"]
    widths = {name: len(dims["0"]) for name, dims in manifest["kept"].items() if "0" in dims}
    assert widths["stages.0.conv1.weight"] == manifest["plan"]["stages.0.conv1"]


def test_result_files_are_written_beside_the_config(pruned):
    folder, result = pruned
    run = folder / result["run_dir"]
    assert json.loads((run / "result.json").read_text())["artifact"] == result["artifact"]
    assert "| params | 222,570 |" in (run / "result.md").read_text()
    assert "<h1>digits_resnet on digits, pruned</h1>" in (run / "result.html").read_text()
    figures = [f"figures/{name}.{kind}" for name in ("channels", "scores") for kind in ("svg", "png")]
    names = ["result.json", "result.md", "result.html", *figures]
    assert result["files"] == [f"{result['run_dir']}/{name}" for name in names]
    assert all((folder / file).stat().st_size for file in result["files"])


def test_the_result_says_what_it_was_made_from(pruned):
    folder, result = pruned
    made = result["provenance"]
    with safe_open(folder / result["artifact"], framework="pt") as file:
        assert made["base_sha256"] == json.loads(file.metadata()["infprune"])["base_sha256"]
    assert made["artifact_sha256"] == sha256(folder / result["artifact"])
    assert made["scores_sha256"] is None
    assert made["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (made["seed"], made["device"], made["data"]["name"]) == (0, "cpu", "digits")
    assert made["samples"] == {"train": 1294, "validation": 144, "test": 359, "calibration": 256}


def test_score_quantiles_are_those_of_the_distribution(pruned):
    _, result = pruned
    cut = [row for row in result["layers"] if row["frozen"] is None]
    assert len(cut) == 6
    for row in cut:
        assert len(row["distribution"]) == 21
        assert row["distribution"][::5] == row["quantiles"]
        assert row["distribution"] == sorted(row["distribution"])


def test_a_missed_gate_exits_5_and_still_writes(infprune, tmp_path):
    outcome = infprune(
        "prune", "--rate", 0.9, "--min-accuracy", 0.999, "--compensate", "none", "-o", "x.safetensors", *SMALL
    )
    assert outcome.code == 5
    assert "below --min-accuracy 0.999" in outcome.err
    assert sum(p.numel() for p in package.load(tmp_path / "x.safetensors").parameters()) < 20_000  # of 222,570


def test_max_drop_gate(infprune):
    outcome = infprune("prune", "--rate", 0.9, "--max-drop", 0.001, "--compensate", "none", "--json", *SMALL)
    assert outcome.code == 5
    assert len(outcome.json["missed"]) == 1
    accuracy = outcome.json["accuracy"]
    drop = accuracy["dense"] - accuracy["cut"]
    (gate,) = outcome.json["gates"]
    assert (gate["name"], gate["limit"], gate["value"], gate["passed"]) == ("max-drop", 0.001, drop, False)


def test_scores_are_reused_without_a_pass(infprune, pruned, monkeypatch):
    _, result = pruned
    scored = infprune("score", "--json", "-o", "scores.safetensors", *SMALL)
    assert scored.code == 0
    monkeypatch.setattr(score_pipeline, "collect", None)  # calling it would fail
    outcome = infprune("prune", "--scores", "scores.safetensors", "-o", "b.safetensors", "--json", *SMALL)
    assert outcome.code == 0
    assert outcome.json["layers"] == result["layers"]
    assert outcome.json["accuracy"] == result["accuracy"]


def test_a_macs_budget_is_kept(infprune):
    outcome = infprune("prune", "--macs", 0.4, "--compensate", "none", "--criterion", "magnitude", "--json", *SMALL)
    result = outcome.json
    assert outcome.code == 0
    assert result["rate"] is None
    share = result["macs"]["after"] / result["macs"]["before"]
    assert result["goals"] == [{"name": "macs", "asked": 0.4, "achieved": share, "met": True}]
    assert 0.3 * result["macs"]["before"] < result["macs"]["after"] <= 0.4 * result["macs"]["before"]


def test_people_see_a_table(infprune):
    outcome = infprune("prune", "--criterion", "magnitude", "--compensate", "none", *SMALL)
    assert outcome.code == 0
    assert "magnitude, 50.0% removed" in outcome.out
    assert "Proof: equal to the masked dense network" in outcome.out
    assert "Report: runs/digits_resnet-prune/result.html" in outcome.out


def test_quiet_says_nothing(infprune):
    outcome = infprune("prune", "--criterion", "random", "--compensate", "none", "-q", *SMALL)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_finetuning_repairs_a_hard_cut(infprune, scope):
    words = ["--rate", 0.7, "--scope", scope, "--criterion", "magnitude", "--compensate", "none", "--finetune"]
    outcome = infprune("prune", *words, "--json", "finetune.epochs=3", "finetune.lr=0.05", *SMALL)
    accuracy = outcome.json["accuracy"]
    assert outcome.code == 0
    assert accuracy["finetuned"] > 0.9 > accuracy["cut"]
