import json

import pytest
from typer.testing import CliRunner

from infprune.cli.app import app

RUN = CliRunner()
WORDS = ["model.name=resnet20", "model.inputs=[{shape: [3, 32, 32]}]", "model.checkpoint=random"]


def told(*words):
    result = RUN.invoke(app, ["doctor", "--estimate", *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_network_is_estimated_from_its_shapes():
    found = told(*WORDS)
    assert (found["params"], found["command"], found["advice"]) == (269722, "doctor", [])
    memory = found["memory"]
    assert memory["peak"] == memory["weights"] + memory["factors"] + max(memory["activations"], memory["solving"])
    assert found["seconds_expected"] == pytest.approx(
        sum(found["work"][f"{name}_seconds"] for name in ("network", "gram", "factorising"))
    )
    gate = told(*WORDS, "score.criterion=gate")
    assert gate["memory"]["factors"] == 0 < memory["factors"]


def test_too_little_memory_is_told_with_a_batch_that_fits():
    found = told(*WORDS, "--memory", "0.5", "data.batch_size=4096")
    [first, *_] = found["advice"]
    name, _, size = first.removesuffix(" fits").partition("=")
    assert name == "data.batch_size"
    again = told(*WORDS, "--memory", "0.5", f"data.batch_size={size}")
    assert again["advice"] == []
    assert again["memory"]["peak"] > 0.9 * 2**29


def test_people_are_told_too():
    result = RUN.invoke(app, ["doctor", "--estimate", *WORDS, "--memory", "0.01"])
    assert result.exit_code == 0
    assert "Scoring resnet20 by influence" in result.stdout
    assert "batch_size" in result.stdout or "memory" in result.stdout


def test_a_file_has_no_estimate(tmp_path):
    result = RUN.invoke(app, ["doctor", "--estimate", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 2
