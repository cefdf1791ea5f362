"""`infprune validate`: files that repeat, networks that are not fit for it. Whole runs: test_instrument_commands."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from test_bad_input import one_line

CANCER = ["-c", "breast-cancer", "--groups", "4"]


def found(infprune, *words):
    outcome = infprune("validate", *CANCER, *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def test_the_same_run_writes_the_same_bytes(infprune):
    def contents(folder):
        result = found(infprune, "retrain.sizes=[0,0.2]", f"run.dir={folder}")
        files = {Path(f).name: Path(f).read_bytes() for f in result["files"]}
        data = json.loads(files.pop("validate.json"))
        for key in ("files", "run_dir", "seconds"):
            del data[key]
        return data, files, (Path(folder) / "retrained.json").read_bytes()

    first, again = contents("a"), contents("b")
    assert first == again
    assert first[1].keys() == {"validate.md", "parameters.png", "loss.png"}


def test_another_seed_draws_other_groups_of_the_same_network(infprune):
    one, other = (found(infprune, "retrain.sizes=[0.2]", "--seed", s, f"run.dir=s{s}") for s in (0, 1))
    assert one["train_loss"] == other["train_loss"]
    assert one["rows"] != other["rows"]


def test_the_whole_network_can_be_a_group(infprune):
    """Nothing is kept, so nothing is compared but the loss: the same for every group."""
    (row,) = found(infprune, "retrain.sizes=[0.999]", "retrain.forms=[block]")["rows"]
    assert row["parameters"] == 31
    assert row["kept"] == row["loss"] == {"r": None, "slope": None}
    assert row["kept_r_mean"] is None
    assert row["everything"]["r"] == pytest.approx(1.0)


def test_one_group_has_no_correlation(infprune):
    (row,) = found(infprune, "retrain.sizes=[0.3]", "retrain.forms=[paper]", "retrain.groups=1", "--groups", 1)["rows"]
    assert row["loss"] == {"r": None, "slope": None}
    assert row["kept"]["r"] > 0.5


def test_a_size_that_is_named_twice_is_measured_once(infprune):
    rows = found(infprune, "retrain.sizes=[0.2,0.2]", "retrain.forms=[block]")["rows"]
    assert len(rows) == 1


@pytest.mark.parametrize("words", [["influence.solver=cg"], ["influence.solver=ldl"], ["influence.curvature=hessian"]])
def test_every_way_to_solve_predicts_the_same(infprune, words):
    """Logistic regression: the Hessian is the GGN."""
    sizes = ["retrain.sizes=[0.3]", "retrain.forms=[block]"]
    truth = found(infprune, *sizes, "run.dir=a")["rows"][0]
    row = found(infprune, *sizes, *words, "influence.rtol=1e-9", "run.dir=b")["rows"][0]
    for key in ("loss", "kept", "everything", "test", "test_second"):
        assert row[key] == pytest.approx(truth[key], rel=1e-5)
    assert (row["load"] is None) == (words[0] in ("influence.solver=cg", "influence.solver=ldl"))


def test_a_network_that_is_too_large(infprune, tmp_path):
    outcome = infprune("validate", "-c", "digits", "data.calibration=16")
    assert outcome.code == 2
    assert "a dense 222,570 x 222,570 curvature needs 369.1 GiB" in one_line(outcome)
    assert "Newton's method, by which validate and influence.fit find minima, is for smaller networks" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_bracket_without_a_certificate(infprune):
    words = ["influence.curvature=hessian", "influence.solver=cg", "retrain.sizes=[0]"]
    outcome = infprune("validate", *CANCER, *words, "--quiet")
    assert outcome.code == 2
    assert "a certified bracket needs" in one_line(outcome)
    assert infprune("validate", *CANCER, *words, "retrain.forms=[block]", "--quiet").code == 0


def test_separable_data_without_a_ridge(infprune):
    outcome = infprune("validate", *CANCER, "influence.ridge=0", "--quiet")
    assert outcome.code == 2
    assert "set influence.ridge above 0" in one_line(outcome)


def test_weights_with_nan(infprune, tmp_path):
    weights = {"linear.weight": torch.zeros(1, 30), "linear.bias": torch.full((1,), float("nan"))}
    save_file(weights, tmp_path / "nan.safetensors")
    for command in ("validate", "layers", "features"):
        outcome = infprune(command, "-c", "breast-cancer", "model.checkpoint=nan.safetensors", "--quiet")
        assert outcome.code == 6
        assert "linear.bias" in one_line(outcome)


@pytest.mark.data
@pytest.mark.skipif("INFPRUNE_DATA" not in os.environ, reason="needs INFPRUNE_DATA")
def test_the_paper_s_table_on_splice(infprune):
    """60 % of 60 parameters: the exact block form keeps its correlation, the printed one loses it (design, 4)."""
    outcome = infprune("validate", "-c", "splice", "--groups", "30", "retrain.sizes=[0.6]", "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["form"]: row for row in outcome.json["rows"]}
    assert outcome.json["curvature"]["parameters"] == 60
    assert rows["block"]["parameters"] == 36
    assert rows["block"]["loss"]["r"] > 0.97
    assert rows["paper"]["loss"]["r"] < 0.9
    assert rows["bracket"]["contained"] == 30
