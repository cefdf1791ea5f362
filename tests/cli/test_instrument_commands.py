"""`infprune validate`, `layers` and `features`: whole runs, their files, and what users get wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import reference
from infprune.data import splits
from infprune.models import SHIPPED
from infprune.models.logistic_regression import logistic_regression
from test_bad_input import one_line

PNG = b"\x89PNG\r\n"
CANCER = ["-c", "breast-cancer"]
FEW = [*CANCER, "--groups", "6", "retrain.sizes=[0,0.3]"]
TWO_LAYERS = """
import torch
from torch import nn

def make(hidden=6, width=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 10))
"""
DIGITS = ["model.factory=nets:make", "model.checkpoint=random", "data.calibration=128", "data.batch_size=64"]


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(TWO_LAYERS)
    monkeypatch.syspath_prepend(tmp_path)


def same(first, second):
    """Results are equal but for the time they took."""
    return {**first, "seconds": 0} == {**second, "seconds": 0}


# --- validate ---------------------------------------------------------------------------------------------------------


def test_validate(infprune):
    outcome = infprune("validate", *FEW, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert (found["command"], found["unconverged"], found["curvature"]["damping"]) == ("validate", 0, 0.0)
    assert (found["curvature"]["ridge"], found["curvature"]["solver"]) == (0.01, "cholesky")
    assert found["curvature"]["gradient_norm"] < 1e-10
    rows = {(r["form"], r["share"]): r for r in found["rows"]}
    assert rows.keys() == {(f, s) for f in ("block", "paper", "bracket") for s in (0.0, 0.3)}
    assert [rows["block", s]["parameters"] for s in (0.0, 0.3)] == [1, 9]
    for share in (0.0, 0.3):
        row = rows["block", share]
        assert row["loss"]["r"] > 0.98
        assert row["kept"]["r"] > 0.95
        assert row["kept_r_mean"] > 0.95
        assert row["everything"]["r"] >= row["kept"]["r"]
        assert rows["bracket", share]["contained"] == row["groups"] == 6
    assert rows["paper", 0.0]["loss"]["r"] == pytest.approx(rows["block", 0.0]["loss"]["r"], abs=1e-9)
    assert rows["paper", 0.3]["loss"]["r"] < rows["block", 0.3]["loss"]["r"]
    assert rows["block", 0.0]["load"] == 0.0
    assert rows["block", 0.3]["load"] > 0.2
    for file in found["files"]:
        content = Path(file).read_bytes()
        assert content.startswith(PNG) if file.endswith("png") else len(content) > 500
    assert json.loads(Path(found["files"][0]).read_text())["rows"] == found["rows"]
    assert "| single | block |" in Path(found["files"][1]).read_text()


def test_validate_resumes(infprune):
    first = infprune("validate", *FEW, "--json")
    store = Path("runs/logistic_regression-validate/retrained.json")
    content = json.loads(store.read_text())
    assert [len(v) for v in content["measurements"].values()] == [6, 6]
    assert same(infprune("validate", *FEW, "--json", "--resume").json, first.json)
    assert same(infprune("validate", *FEW, "--json").json, first.json)  # and from the start
    for s in content["measurements"]["0.3"]:
        s["change"] = 1.0  # what is stored is what is compared
    store.write_text(json.dumps(content))
    resumed = infprune("validate", *FEW, "--json", "--resume").json
    assert [r["loss"]["r"] for r in resumed["rows"] if r["share"] == 0.3] == [None] * 3
    other = infprune("validate", *FEW, "influence.ridge=0.1", "--resume")
    assert other.code == 2
    assert "other settings" in one_line(other)
    groups = content["measurements"]["0.3"]
    for damage in (
        [{}],
        groups[:5],
        [*groups[:5], groups[5] | {"shift": [0.0]}],
        [*groups[:5], {**groups[5], "test": "x"}],
    ):
        store.write_text(json.dumps(content | {"measurements": {"0.3": damage}}))
        damaged = infprune("validate", *FEW, "--resume")
        assert damaged.code == 6
        assert "damaged" in one_line(damaged)
    store.write_text("{")
    damaged = infprune("validate", *FEW, "--resume")
    assert damaged.code == 6
    assert "damaged" in one_line(damaged)


def test_validate_for_people(infprune):
    outcome = infprune("validate", *FEW)
    assert outcome.code == 0
    assert "predicted against retrained" in outcome.out
    assert "Brackets that hold the exact quadratic value: 12 of 12." in outcome.out
    assert "ridge 0.01, damping 0" in outcome.out


def test_validate_a_network_with_hidden_units(infprune, nets):
    words = ["model.args={hidden: 2, width: 30}", "data.name=breast_cancer", "model.factory=nets:make"]
    outcome = infprune(
        "validate", *words, "model.checkpoint=random", "influence.ridge=0.05", "--groups", "4", "retrain.sizes=[0.1]",
        "retrain.forms=[block]", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["rows"]
    assert row["groups"] + outcome.json["unconverged"] == 4
    assert row["groups"] >= 3
    assert row["everything"]["r"] > 0.8


# --- layers -----------------------------------------------------------------------------------------------------------


def test_layers_in_gates(infprune):
    outcome = infprune("layers", "-c", "digits", "data.calibration=128", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert (found["curvature"]["space"], found["curvature"]["curvature"]) == ("gates", "gate Fisher")
    assert (found["curvature"]["parameters"], found["curvature"]["samples"]) == (384, 128)
    assert found["curvature"]["damping"] > 0
    rows = {r["name"]: r for r in found["rows"]}
    assert sum(r["parameters"] for r in rows.values()) == 384
    assert found["left_out"] == ["linear: it is an output of the network"]
    for row in rows.values():
        assert 0 < row["of_damping"] <= row["influence"]
        assert row["frozen_loss"] > 0.1
    assert [Path(f).suffix for f in found["files"]] == [".json", ".md", ".png"]
    assert Path(found["files"][2]).read_bytes().startswith(PNG)
    people = infprune("layers", "-c", "digits", "data.calibration=128")
    assert "stages.0.conv1" in people.out
    assert "damping" in people.out


def test_layers_in_weights_are_dense_block_algebra(infprune, nets):
    words = [*DIGITS, "influence.space=weights", "influence.damping=0.01"]
    found = infprune("layers", *words, "layers.groups={mine: {1.weight: {0: [1]}, 3.bias: null}}", "--json")
    assert found.code == 0, found.err
    rows = {r["name"]: r for r in found.json["rows"]}
    assert list(rows) == ["1", "3", "mine"]
    assert [r["parameters"] for r in rows.values()] == [390, 70, 74]
    for solver in ("cg", "lsmr", "ldl"):
        again = infprune("layers", *words, f"influence.solver={solver}", "influence.rtol=1e-9",
                         "influence.max_iterations=3000", "--json")  # fmt: skip
        assert again.code == 0, again.err
        for row in again.json["rows"]:
            assert row["influence"] == pytest.approx(rows[row["name"]]["influence"], rel=1e-2)
    bounds = infprune("layers", *words, "influence.form=bracket", "influence.solver=cg", "--json").json
    for row in bounds["rows"]:
        truth = rows[row["name"]]["influence"]
        assert row["low"] <= truth * 1.001
        assert row["high"] >= truth * 0.999
    kfac = infprune("layers", *words, "influence.curvature=kfac", "--json").json
    assert [r["influence"] > 0 for r in kfac["rows"]] == [True, True]


# --- features ---------------------------------------------------------------------------------------------------------


def test_features_of_logistic_regression_are_remark_2(infprune):
    outcome = infprune("features", *CANCER, "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    data = splits.load("breast_cancer", None, None, download=False, args={}, validation=0.01, seed=0)
    x = torch.stack([data.train[i][0] for i in range(len(data.train))]).double()
    y = torch.tensor([data.train[i][1] for i in range(len(data.train))])
    net = logistic_regression(30).double()
    theta = torch.zeros(31, dtype=torch.float64)
    for _ in range(30):  # Newton from the dense references
        with torch.no_grad():
            net.linear.weight.copy_(theta[None, :30])
            net.linear.bias.copy_(theta[30:])
        loss = torch.nn.functional.cross_entropy(net(x), y)
        g = torch.cat([p.flatten() for p in torch.autograd.grad(loss, list(net.parameters()))]) + 0.01 * theta
        H = reference.loss_hessian(net, x, y) + 0.01 * torch.eye(31).double()
        theta = theta - torch.linalg.solve(H, g)
    truth = 0.5 * theta[:30] ** 2 / torch.linalg.inv(H).diagonal()[:30]
    assert [r["influence"] for r in found["rows"]] == pytest.approx(truth.tolist(), rel=1e-6)
    assert [r["name"] for r in found["rows"]][:2] == ["mean radius", "mean texture"]
    order = truth.argsort(descending=True).tolist()
    assert [found["rows"][i]["rank"] for i in order] == list(range(1, 31))
    assert found["read_by"] == "linear.weight"
    assert found["shape"] is None
    lines = Path(found["files"][1]).read_text().splitlines()
    assert lines[0] == "feature,influence,rank"
    assert len(lines) == 31


def test_features_of_images_in_gates(infprune):
    words = ["-c", "digits", "data.calibration=64", "data.batch_size=64"]
    found = infprune("features", *words, "--json").json
    assert (found["shape"], len(found["rows"]), found["curvature"]["space"]) == ([8, 8], 64, "gates")
    assert found["rows"][9]["name"] == "pixel (1, 1)"
    assert found["accuracy"] > 0.98
    edge, middle = found["rows"][0]["influence"], found["rows"][4 * 8 + 4]["influence"]
    assert middle > 5 * edge  # the first pixel is always white
    people = infprune("features", *words, "features.top=3")
    assert "64 features in all" in people.out
    assert "gates on the inputs" in people.out


def test_features_of_kronecker_blocks(infprune, nets):
    words = [*DIGITS, "influence.damping=0.01"]
    closed = infprune("features", *words, "influence.curvature=kfac", "--json")
    assert closed.code == 0, closed.err
    solved = infprune("features", *words, "influence.curvature=kfac", "influence.form=bracket", "influence.rtol=1e-6",
                      "--json")  # fmt: skip
    assert closed.json["read_by"] == "1.weight"
    pairs = zip(closed.json["rows"], solved.json["rows"], strict=True)
    assert all(a["influence"] == pytest.approx(b["influence"], rel=1e-4, abs=1e-12) for a, b in pairs)
    assert sum(r["influence"] > 0 for r in closed.json["rows"]) > 40


@pytest.mark.parametrize("words", [["validate", *FEW], ["layers", *CANCER], ["features", *CANCER]])
def test_the_same_seed_gives_the_same(infprune, words):
    assert same(infprune(*words, "--json").json, infprune(*words, "--json").json)
    assert infprune(*words, "--quiet").out == ""


# --- what users get wrong ---------------------------------------------------------------------------------------------

BAD = {
    "unknown curvature": (["layers", "influence.curvature=gnn"], 2, "influence.curvature: expected one of ggn"),
    "negative damping": (["layers", "influence.damping=-1"], 2, "influence.damping: expected a number >= 0 or auto"),
    "unknown key": (["layers", "influence.dampnig=1"], 2, "did you mean influence.damping?"),
    "too large for a dense one": (
        ["layers", "-c", "digits", "influence.solver=cholesky"], 2, "bytes), at most"),
    "share above one": (["validate", *CANCER, "retrain.sizes=[1.5]"], 2, "retrain.sizes: expected a list of shares"),
    "no groups": (["validate", *CANCER, "--groups", "0"], 2, "retrain.groups"),
    "gates cannot be retrained": (["validate", *CANCER, "influence.space=gates"], 2, "validate retrains weights"),
    "no such module": (["layers", *CANCER, "layers.modules=['nothing*']"], 2, "no module with parameters is named"),
    "no such layer": (["layers", "-c", "digits", "layers.modules=['nothing*']"], 2, "no prunable layer is named"),
    "no such parameter": (["layers", *CANCER, "layers.groups={a: {linear.wight: null}}"], 2, "linear.wight"),
    "groups in gates": (["layers", "-c", "digits", "layers.groups={a: {linear.weight: null}}"], 2,
                        "use influence.space=weights"),
    "no data": (["validate", "-c", "splice"], 6, "INFPRUNE_DATA"),
    "separable data": (["features", *CANCER, "influence.ridge=0"], 2, "set influence.ridge above 0"),
    "nothing certain": (
        ["layers", "-c", "digits", "influence.space=weights", "influence.form=bracket", "influence.curvature=hessian",
         "data.calibration=16", "influence.solver=cg", "--quiet"], 2, "a certified bracket needs"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_words(infprune, monkeypatch, case):
    monkeypatch.delenv("INFPRUNE_DATA", raising=False)
    words, code, text = BAD[case]
    outcome = infprune(*words)
    assert outcome.code == code, outcome.err
    assert text in one_line(outcome)
    as_json = infprune(*words, "--json")
    assert (as_json.json["exit_code"], as_json.json["command"]) == (code, words[0])


def test_an_indefinite_hessian_names_its_cure(infprune, nets):
    words = [
        "layers",
        *DIGITS,
        "influence.space=weights",
        "influence.curvature=hessian",
        "influence.damping=0",
        "--quiet",
    ]
    for solver in ("cg", "cholesky"):
        outcome = infprune(*words, f"influence.solver={solver}")
        assert outcome.code == 2
        assert "indefinite" in one_line(outcome)
    damping = float(one_line(outcome).partition("damping above ")[2].partition(",")[0])
    cured = infprune(*words, f"influence.damping={damping}", "influence.solver=cholesky", "--json")
    assert cured.code == 0, cured.err
    assert cured.json["curvature"]["least_eigenvalue"] < 0
    auto = infprune(*words, "influence.damping=auto", "influence.solver=cholesky", "--json")
    assert auto.code == 0, auto.err
    assert auto.json["curvature"]["damping"] >= -auto.json["curvature"]["least_eigenvalue"]


@pytest.mark.parametrize("solver", ["ldl", "neumann"])
def test_a_minimum_cannot_fall(infprune, nets, solver):
    """On an indefinite Hessian these solvers find a saddle or stop short: no influence is shown."""
    words = ["layers", *DIGITS, "influence.space=weights", "influence.curvature=hessian", "influence.damping=0.05"]
    outcome = infprune(*words, f"influence.solver={solver}", "influence.max_iterations=50", "--quiet")
    assert outcome.code == 2
    assert "damping" in one_line(outcome)


def test_weights_with_nan(infprune, tmp_path):
    tensors = load_file(SHIPPED["digits_resnet"])
    tensors["conv1.weight"] = torch.full_like(tensors["conv1.weight"], float("nan"))
    save_file(tensors, tmp_path / "nan.safetensors")
    outcome = infprune("layers", "-c", "digits", "model.checkpoint=nan.safetensors")
    assert outcome.code == 6
    assert "NaN" in one_line(outcome)
