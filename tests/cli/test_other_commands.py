"""score, train, finetune, evaluate, report, configs, help."""

import html
import json
import re
import shlex
import subprocess
import sys

import pytest

import infprune as package
from runs import SMALL


def test_score_lists_every_layer(infprune, tmp_path):
    outcome = infprune("score", "--json", "score.criterion=gate", "prune.protect=[conv1]", *SMALL)
    result = outcome.json
    assert outcome.code == 0
    rows = {row["name"]: row for row in result["layers"]}
    assert rows["linear"]["frozen"] == "it is an output of the network"
    assert rows["conv1"]["frozen"] == "protected"
    assert rows["conv1"]["kept"] == rows["conv1"]["channels"] == 32
    quantiles = rows["stages.2.conv1"]["quantiles"]
    assert quantiles == sorted(quantiles)
    assert len(quantiles) == 5
    assert (tmp_path / result["scores"]).is_file()


def test_evaluate_repeats_the_recorded_accuracy(infprune, pruned):
    folder, pruned_result = pruned
    outcome = infprune("evaluate", folder / pruned_result["artifact"], "--json")
    assert outcome.code == 0
    assert outcome.json["accuracy"] == outcome.json["recorded"] == pruned_result["accuracy"]["distilled"]


def test_evaluate_without_a_file_measures_the_dense_network(infprune, pruned):
    outcome = infprune("evaluate", "--json")
    assert outcome.json["accuracy"] == pruned[1]["accuracy"]["dense"]


def test_finetune_takes_its_settings_from_the_file(infprune, pruned, tmp_path):
    folder, result = pruned
    outcome = infprune("finetune", folder / result["artifact"], "finetune.epochs=1", "-o", "f.safetensors", "--json")
    tuned = outcome.json
    assert outcome.code == 0
    assert tuned["accuracy"]["before"] == result["accuracy"]["distilled"]
    assert len(tuned["epochs"]) == 1
    again = infprune("evaluate", tmp_path / "f.safetensors", "--json").json
    assert again["accuracy"] == again["recorded"] == tuned["accuracy"]["after"]
    module = package.load(tmp_path / "f.safetensors")
    assert sum(p.numel() for p in module.parameters()) == result["params"]["after"]


def test_train_then_prune_the_result(infprune, tmp_path):
    outcome = infprune("train", "train.epochs=5", "train.lr=0.05", "-o", "m.safetensors", "--json")
    trained = outcome.json
    assert outcome.code == 0
    assert trained["accuracy"]["after"] > 0.8 > trained["accuracy"]["before"]
    outcome = infprune("evaluate", "model.checkpoint=m.safetensors", "--json")
    assert outcome.json["accuracy"] == trained["accuracy"]["after"]


def test_report_measures_the_grid_and_resumes(infprune, tmp_path):
    words = ["--rates", "0.3,0.6", "--criteria", "magnitude,random", "--seeds", 2, "data.calibration=128"]
    outcome = infprune("report", *words, "--json")
    result = outcome.json
    assert outcome.code == 0
    assert [(row["criterion"], row["rate"]) for row in result["rows"]] == [
        ("magnitude", 0.3),
        ("magnitude", 0.6),
        ("random", 0.3),
        ("random", 0.6),
    ]
    row = result["rows"][1]
    assert row["rate_achieved"] == pytest.approx(0.6, abs=1 / 384)
    assert row["compensated"][0] > row["cut"][0]
    assert row["finetuned"] is None
    png = (tmp_path / "runs/digits_resnet-report/report.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    page = (tmp_path / "runs/digits_resnet-report/report.html").read_text()
    assert "<h1>digits_resnet on digits: criteria compared</h1>" in page
    assert "| random |" in (tmp_path / "runs/digits_resnet-report/report.md").read_text()
    assert json.loads((tmp_path / "runs/digits_resnet-report/report.json").read_text()) == result

    again = infprune("report", *words, "--json", "--resume").json
    assert again["rows"] == result["rows"]
    assert again["seconds"].get("measure", 0) == 0

    told = html.unescape(re.search("<pre><code>infprune (.*?)</code>", page).group(1))
    again = infprune(*shlex.split(told), "--json", "--resume").json
    assert again["rows"] == result["rows"]
    assert again["seconds"].keys() == {"load", "coupling", "evaluate"}  # all points were found: the same settings

    shown = infprune("report", *words, "--resume")
    assert shown.out.count("Wrote ") == 4  # not each figure
    assert "test accuracy (%), compensated" in shown.out
    assert "channels removed (%)" in shown.out


def test_a_report_finetunes_if_its_configuration_says_so(infprune, tmp_path):
    words = ["--rates", "0.5", "--criteria", "magnitude", "--seeds", 1, "prune.compensate=none", "finetune.epochs=1"]
    words += ["data={calibration: 64, batch_size: 512}", "prune.scope=global", "model.args={widths: [4]}", "--json"]
    words += ["model.checkpoint=random"]
    told = infprune("report", *words, "prune.finetune=true").json
    assert told["rows"][0]["finetuned"] is not None
    again = infprune("report", *words, "--finetune", "--resume").json
    assert again["rows"] == told["rows"]
    assert "finetune" not in again["seconds"]  # the option and the word are the same settings
    assert "finetune: true" in (tmp_path / "runs/digits_resnet-report/config.yaml").read_text()


def test_configs_ls_show_cp(infprune, tmp_path):
    names = [line.split()[0] for line in infprune("configs", "ls").out.splitlines()]
    assert "digits" in names
    assert "mnist-alexnet5" in names
    assert infprune("configs", "show", "mnist-alexnet5").out.startswith("# Five convolutions on MNIST")
    assert infprune("configs", "cp", "digits").code == 0
    copied = (tmp_path / "infprune.yaml").read_text()
    assert infprune("configs", "cp", "digits").code == 2
    assert (tmp_path / "infprune.yaml").read_text() == copied
    assert infprune("configs", "show", "nope").code == 2


def test_help_does_not_import_torch():
    code = "import sys, infprune.cli; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["score", "prune", "finetune", "report", "train", "evaluate", "compare", "schema"])
def test_help_gives_an_example(infprune, command):
    outcome = infprune(command, "--help")
    assert outcome.code == 0
    assert f"Example: infprune {command}" in outcome.out


def test_module_entry_point():
    done = subprocess.run([sys.executable, "-m", "infprune", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"infprune {package.__version__}\n"
