"""`infprune layers` against dense references, and what users get wrong. Whole runs: test_instrument_commands."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import reference
from infprune import config
from infprune.data import splits
from infprune.pipeline.session import open_session
from test_bad_input import one_line

NETS = """
import torch
from torch import nn

def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(),
                         nn.Linear(4, 10))
"""
DIGITS = ["model.factory=normednets:normed", "model.checkpoint=random", "data.calibration=60", "data.batch_size=60"]
WEIGHTS = [*DIGITS, "influence.space=weights"]
SIZE = 64 * 5 + 5 + 10 + 24 + 50


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "normednets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("normednets")


def found(infprune, *words):
    outcome = infprune("layers", *words, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json


def by_name(result):
    return {row["name"]: row for row in result["rows"]}


def calibration(*words):
    """The 60 samples that the command looks at: a seed draws its own."""
    ((x, y),) = open_session(config.load(None, [*DIGITS, *words]), "layers").calibration()
    return x.double(), y


def test_layers_in_weights(infprune, nets):
    words = ["influence.damping=0.02", "influence.ridge=0.01", "layers.modules=['1', '2', '4']"]
    mine = "layers.groups={bias: {1.bias: null, 4.bias: null}, cross: {1.weight: {0: [2], 1: [7, 3]}}}"
    result = found(infprune, *WEIGHTS, *words, mine)
    x, y = calibration()
    net = nets.normed().double().eval()
    theta = reference.flat(net)
    assert len(theta) == SIZE
    H = reference.ggn(net, x) + 0.03 * torch.eye(SIZE, dtype=torch.float64)
    weight = torch.arange(320).reshape(5, 64)
    groups = {
        "1": range(325),
        "2": range(325, 335),
        "4": range(335, 359),
        "bias": [*range(320, 325), *range(355, 359)],
        "cross": sorted({*weight[2].tolist(), *weight[:, [3, 7]].flatten().tolist()}),
    }
    rows = by_name(result)
    assert list(rows) == list(groups)

    def loss(at):
        penalty = 0.005 * float(at.square().sum())
        return float(F.cross_entropy(reference._logits(net, at, x), y)) + penalty

    assert result["loss"] == pytest.approx(loss(theta), rel=1e-9)
    for name, S in groups.items():
        zeroed = theta.clone()
        zeroed[list(S)] = 0
        row = rows[name]
        assert row["parameters"] == len(list(S))
        assert row["influence"] == pytest.approx(float(reference.block(H, theta, list(S))[1]), rel=1e-6)
        assert row["of_damping"] == pytest.approx(0.015 * float(theta[list(S)].square().sum()), rel=1e-9)
        assert row["frozen_loss"] == pytest.approx(loss(zeroed) - loss(theta), rel=1e-6)
        assert (row["low"], row["high"], row["note"]) == (None, None, None)


def test_layers_in_gates(infprune, nets):
    """F = Z^T Z / N of labels drawn from the model, all gates of all layers in one matrix."""
    result = found(infprune, *DIGITS, "influence.space=gates", "influence.damping=0.01", "run.seed=3")
    x, y = calibration("run.seed=3")
    net = nets.normed().double().eval()
    labels = reference.drawn_labels(net(x), 3)
    readers = {"4": 5, "6": 4}  # who reads layers 1 and 4, and how many channels
    Z = [reference.gate_gradients(net, x, labels, {m: torch.arange(c)[:, None]}) for m, c in readers.items()]
    H = torch.cat(Z, 1).T @ torch.cat(Z, 1) / len(x) + 0.01 * torch.eye(9, dtype=torch.float64)
    ones = torch.ones(9, dtype=torch.float64)
    rows = by_name(result)
    assert list(rows) == ["1", "4"]
    closed = {"1": "4", "4": "6"}
    for name, S in (("1", range(5)), ("4", range(5, 9))):
        assert rows[name]["influence"] == pytest.approx(float(reference.block(H, ones, list(S))[1]), rel=1e-4)
        assert rows[name]["of_damping"] == pytest.approx(0.005 * len(S))
        silent = nets.normed().double().eval()
        with torch.no_grad():
            silent.get_submodule(closed[name]).weight.zero_()
            change = float(F.cross_entropy(silent(x), y) - F.cross_entropy(net(x), y))
        assert rows[name]["frozen_loss"] == pytest.approx(change, rel=1e-3, abs=1e-5)
    assert result["left_out"] == ["6: it is an output of the network"]


def test_auto_takes_the_space_that_fits(infprune, nets):
    assert found(infprune, *DIGITS)["curvature"]["space"] == "weights"  # 409 parameters
    digits = ["data.calibration=16", "data.batch_size=16", "layers.modules=['conv1']"]
    assert found(infprune, *digits)["curvature"]["space"] == "gates"  # 222,570
    assert found(infprune, *digits, "influence.curvature=kfac")["curvature"]["space"] == "weights"


@pytest.mark.parametrize("space", ["weights", "gates"])
def test_brackets_hold_what_the_exact_form_says(infprune, nets, space):
    words = [*DIGITS, f"influence.space={space}", "influence.damping=0.02"]
    exact = by_name(found(infprune, *words))
    for solver in ("cholesky", "cg"):
        bounds = found(infprune, *words, "influence.form=bracket", f"influence.solver={solver}", "influence.rtol=0.1")
        assert bounds["curvature"]["form"] == "bracket"
        for row in bounds["rows"]:
            truth = exact[row["name"]]["influence"]
            assert row["low"] * (1 - 1e-5) <= truth <= row["high"] * (1 + 1e-5)
            assert row["influence"] == row["high"]
            assert row["high"] - row["low"] <= 0.1 * row["high"]
    few = found(infprune, *words, "influence.form=bracket", "influence.solver=cg", "influence.max_iterations=1",
                "influence.rtol=1e-6")  # fmt: skip
    assert any("wider than 1e-06" in (row["note"] or "") for row in few["rows"])


def test_layers_of_kfac_leave_norms_out(infprune, nets):
    result = found(infprune, *WEIGHTS, "influence.curvature=kfac")
    assert list(by_name(result)) == ["1", "4", "6"]
    assert result["curvature"]["parameters"] == SIZE - 10
    outcome = infprune("layers", *WEIGHTS, "influence.curvature=kfac", "layers.groups={a: {2.weight: null}}")
    assert outcome.code == 2
    assert "group a: 2.weight is not among the 6 parameters looked at" in one_line(outcome)


def test_the_same_run_writes_the_same_bytes(infprune, nets):
    def contents(folder):
        result = found(infprune, *DIGITS, f"run.dir={folder}")
        files = {Path(f).suffix: Path(f).read_bytes() for f in result["files"]}
        data = json.loads(files.pop(".json"))
        for key in ("files", "run_dir", "seconds"):
            del data[key]
        return data, files

    first, again = contents("a"), contents("b")
    assert first == again
    assert first[1].keys() == {".md", ".png"}


CANCER = ["-c", "breast-cancer"]
BAD = {
    "a name that is nearly right": ("{a: {linear.wight: null}}", "group a: linear.wight is not among the 2 parameters"),
    "with what was meant": ("{a: {linear.wight: null}}", "did you mean linear.weight?"),
    "a dimension before the first": ("{a: {linear.weight: {-5: [0]}}}", "it holds no indices [0] along -5"),
    "a dimension after the last": ("{a: {linear.weight: {2: [0]}}}", "it holds no indices [0] along 2"),
    "an index too far": (
        "{a: {linear.weight: {1: [0, 30]}}}",
        "has shape (1, 30), it holds no indices [0, 30] along 1",
    ),
    "no index": ("{a: {linear.weight: {1: []}}}", "it holds no indices [] along 1"),
    "no parameter": ("{a: {}}", "group a: expected at least one parameter, got none"),
    "no group": ("{a: 5}", "layers.groups: expected a mapping"),
}


@pytest.mark.parametrize("case", BAD)
def test_groups_that_are_not_there(infprune, case):
    groups, text = BAD[case]
    outcome = infprune("layers", *CANCER, f"layers.groups={groups}")
    assert outcome.code == 2
    assert text in one_line(outcome)


def test_nothing_is_written_where_nothing_was_found(infprune, tmp_path):
    assert infprune("layers", *CANCER, "layers.modules=['nothing*']").code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_data_of_breast_cancer(infprune):
    """One layer: everything goes, and what is predicted is 1/2 theta^T H theta."""
    data = splits.load("breast_cancer", None, None, download=False, args={}, validation=0.01, seed=0)
    result = found(infprune, *CANCER)
    (row,) = result["rows"]
    assert (row["name"], row["parameters"]) == ("linear", 31)
    y = torch.tensor([data.train[i][1] for i in range(len(data.train))])
    assert row["frozen_loss"] + result["loss"] == pytest.approx(float(F.cross_entropy(torch.zeros(len(y), 2), y)))
    assert 0 < row["of_damping"] < row["influence"] < row["frozen_loss"]
