"""`infprune export`: files that run without infprune, the check, the clock, and what users get wrong."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import infprune as package
from forging import forged
from infprune import export, latency
from infprune.export import FORMATS
from infprune.latency import Comparison, Quartiles
from runs import SMALL


@pytest.fixture
def model(pruned, tmp_path):
    """A pruned network of one's own, in the working directory."""
    folder, result = pruned
    shutil.copy(folder / result["artifact"], tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def digits(count):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_pt2_beside_the_model_runs_without_infprune(infprune, model, tmp_path):
    outcome = infprune("export", "small.safetensors", "--json")
    result = outcome.json
    assert outcome.code == 0, outcome.err
    assert result["artifact"] == "small.pt2"
    assert result["bytes"] == (tmp_path / "small.pt2").stat().st_size
    assert result["inputs"] == [{"shape": [1, 8, 8], "dtype": "float32"}]
    assert result["verified"]["max_relative_error"] <= 1e-6
    assert result["verified"]["batches"] == [1, 5]
    assert result["latency"] == []
    torch.save(digits(9), tmp_path / "x.pt")
    code = (
        "import sys, torch; y = torch.export.load('small.pt2').module()(torch.load('x.pt'));"
        "assert 'infprune' not in sys.modules; torch.save(y.detach(), 'y.pt')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with torch.no_grad():
        truth = package.load(model)(digits(9))
    assert torch.allclose(torch.load(tmp_path / "y.pt"), truth, rtol=1e-5, atol=1e-5)


def test_the_name_of_the_output_chooses_onnx(infprune, model, tmp_path):
    import onnxruntime  # noqa: PLC0415 - loaded only where ONNX is used

    outcome = infprune("export", "small.safetensors", "-o", "deep/net.onnx")
    assert outcome.code == 0, outcome.err
    assert "Checked against the network on 1 and 5 random inputs" in outcome.out
    assert "Wrote deep/net.onnx: onnx" in outcome.out
    assert outcome.out.rstrip().endswith("takes float32 (N, 1, 8, 8)")
    assert outcome.err == ""
    session = onnxruntime.InferenceSession(tmp_path / "deep/net.onnx")
    (found,) = session.run(["logits"], {"x": digits(3).numpy()})
    with torch.no_grad():
        truth = package.load(model)(digits(3))
    assert torch.allclose(torch.from_numpy(found), truth, rtol=1e-4, atol=1e-4)


def test_without_a_file_the_configured_network_is_exported(infprune, tmp_path):
    result = infprune("export", "--json").json
    assert result["source"] is None
    assert result["artifact"] == "runs/digits_resnet-export/model.pt2"
    network = torch.export.load(tmp_path / result["artifact"]).module()
    assert sum(p.numel() for p in network.parameters()) == 222_570


def test_same_bytes_and_quiet(infprune, model, tmp_path):
    for name in ("a.pt2", "b.pt2"):
        outcome = infprune("export", "small.safetensors", "-o", name, "-q")
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (tmp_path / "a.pt2").read_bytes() == (tmp_path / "b.pt2").read_bytes()


def test_a_factory_is_named_and_its_data_are_not_needed(infprune, tmp_path):
    words = ["model.factory=forms:TwoInputs", "data.factory=forms:pairs", "model.checkpoint=random"]
    quick = ["score.criterion=magnitude", "prune.compensate=none", *SMALL]
    assert infprune("prune", "-o", "two.safetensors", "-q", *words, *quick).code == 0
    refused = infprune("export", "two.safetensors")
    assert refused.code == 2
    assert "model.factory=forms:TwoInputs" in refused.err
    outcome = infprune("export", "two.safetensors", words[0], "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["inputs"] == [{"shape": [6], "dtype": "int64"}, {"shape": [5], "dtype": "float32"}]
    network = torch.export.load(tmp_path / "two.pt2").module()
    tokens, values = torch.randint(12, (4, 6)), torch.randn(4, 5)
    with torch.no_grad():
        truth = package.load("two.safetensors", factory="forms:TwoInputs").eval()(tokens, values)
    assert torch.allclose(network(tokens, values), truth, rtol=1e-5, atol=1e-6)


def test_latency_is_measured_against_the_dense_network(infprune, model, monkeypatch):
    compared = []

    def compare(dense, pruned, x, rounds):
        compared.append([sum(p.numel() for p in network.parameters()) for network in (dense, pruned)])
        assert len(list(rounds)) == 31
        return latency.Comparison(31, Quartiles(2.0, 1.9, 2.2), Quartiles(1.0, 0.9, 1.1), Quartiles(0.5, 0.4, 0.6))

    monkeypatch.setattr("infprune.pipeline.export.latency.compare", compare)
    outcome = infprune("export", model, "--latency", "--batch", 8, "--threads", 1, "--device", "cpu", "--json")
    rows = outcome.json["latency"]
    assert [row["batch"] for row in rows] == [1, 8]
    small = sum(p.numel() for p in package.load(model).parameters())
    assert compared == [[222_570, small]] * 2
    assert rows[0] == {
        "batch": 1,
        "n": 31,
        "device": "cpu",
        "threads": 1,
        "dense": {"median": 2.0, "low": 1.9, "high": 2.2},
        "pruned": {"median": 1.0, "low": 0.9, "high": 1.1},
        "ratio": {"median": 0.5, "low": 0.4, "high": 0.6},
        "verdict": "faster",
    }


def test_latency_runs_on_a_real_clock(infprune, model):
    outcome = infprune("export", model, "--latency", "--device", "cpu", "--json")
    (row,) = outcome.json["latency"]
    for times in (row["dense"], row["pruned"], row["ratio"]):
        assert 0 < times["low"] <= times["median"] <= times["high"]
    assert row["threads"] == 1


@pytest.mark.parametrize(
    ("ratio", "line"),
    [
        ((0.77, 0.7, 0.8), "Faster: pruned takes 0.77x the time at batch 1."),
        ((1.03, 0.9, 1.1), "No speed-up on this machine: pruned takes 1.03x the time at batch 1, within the spread."),
        ((1.20, 1.1, 1.3), "No speed-up on this machine: pruned takes 1.20x the time at batch 1; it is slower."),
    ],
)
def test_people_are_told_whether_it_is_faster(infprune, model, monkeypatch, ratio, line):
    found = Comparison(31, Quartiles(2.0, 1.9, 2.2), Quartiles(1.5, 1.4, 1.6), Quartiles(*ratio))
    monkeypatch.setattr("infprune.pipeline.export.latency.compare", lambda *_: found)
    shown = infprune("export", model, "--latency", "--device", "cpu").out
    assert line in shown
    assert "│     1 │ 2.00 (1.90 to 2.20) │ 1.50 (1.40 to 1.60) │" in shown
    assert "Milliseconds in torch on cpu, 1 CPU thread: median (quartiles) of 31 alternating runs." in shown


@pytest.mark.parametrize("kind", FORMATS)
def test_a_wrong_file_exits_5_and_the_old_one_survives(infprune, model, monkeypatch, tmp_path, kind):
    wrong = replace(FORMATS[kind], reopen=lambda _: lambda x: torch.zeros(len(x), 10))
    monkeypatch.setitem(export.FORMATS, kind, wrong)
    (tmp_path / f"small.{kind}").write_text("old")
    outcome = infprune("export", model, "--format", kind, "--json")
    assert outcome.code == outcome.json["exit_code"] == 5
    assert "largest relative error 1.0e+00" in outcome.json["error"]
    assert outcome.json["error"].endswith(f"small.{kind} was not written")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"small.{kind}", "small.safetensors"]
    assert (tmp_path / f"small.{kind}").read_text() == "old"


CASES = {
    "missing file": (["nope.safetensors"], 6, "nope.safetensors: no such file"),
    "unknown format": (["small.safetensors", "--format", "tflite"], 2, "expected one of pt2, onnx, got tflite"),
    "unknown both": (["small.safetensors", "--format", "tflite", "-o", "n.tflite"], 2, "ends in .pt2 or .onnx"),
    "unknown suffix": (["small.safetensors", "-o", "net.bin"], 2, "a name that ends in .pt2 or .onnx, got net.bin"),
    "two formats": (["small.safetensors", "--format", "pt2", "-o", "n.onnx"], 2, "that ends in .pt2, got n.onnx"),
    "unwritable output": (["small.safetensors", "-o", "small.safetensors/n.pt2"], 6, "cannot write small.safetensors"),
    "nothing to compare": (["--latency"], 2, "name the file"),
    "batch alone": (["small.safetensors", "--batch", "8"], 2, "add --latency"),
    "bad device": (["small.safetensors", "--device", "gpu"], 2, "run.device"),
    "wrong inputs": (["small.safetensors", "model.inputs=[{shape: [3, 8, 8]}]"], 3, "cannot export DigitsResNet"),
    "unknown key": (["small.safetensors", "run.thread=1"], 2, "did you mean run.threads?"),
    "no equals sign": (["small.safetensors", "fast"], 2, "expected key=value"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_words(infprune, model, tmp_path, case):
    words, code, text = CASES[case]
    before = model.read_bytes()
    outcome = infprune("export", *words)
    assert text in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert outcome.code == code
    assert model.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_scores_file_is_no_network(infprune):
    assert infprune("score", "score.criterion=magnitude", "-o", "s.safetensors", "-q", *SMALL).code == 0
    outcome = infprune("export", "s.safetensors")
    assert outcome.code == 6
    assert "expected a model file, got a scores file" in outcome.err


def test_the_model_itself_is_not_overwritten(infprune, model, tmp_path):
    model.rename(tmp_path / "small.pt2")  # any name will do for a pruned file
    before = (tmp_path / "small.pt2").read_bytes()
    outcome = infprune("export", "small.pt2", "-o", "./small.pt2")
    assert outcome.code == 2
    assert "is the pruned model itself" in outcome.err
    assert (tmp_path / "small.pt2").read_bytes() == before


def test_inputs_that_cannot_be_drawn_are_told(infprune, model):
    forged(model, inputs=[{"shape": [1, 8, 8], "dtype": "bool"}])
    outcome = infprune("export", model)
    assert outcome.code == 6
    assert "describe others in model.inputs" in outcome.err
    assert infprune("export", model, "-q", "model.inputs=[{shape: [1, 8, 8]}]").code == 0


def test_onnx_without_the_extra(infprune, model, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    outcome = infprune("export", model, "--format", "onnx")
    assert outcome.code == 2
    assert outcome.err.strip() == (
        'error: onnx needs onnx and onnxscript and onnxruntime; pip install "infprune[onnx]"'
    )


def test_help_gives_an_example_of_export(infprune):
    outcome = infprune("export", "--help")
    assert outcome.code == 0
    assert "Example: infprune export" in outcome.out
