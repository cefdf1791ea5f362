import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from infprune.cli.app import app
from infprune.estimate import Estimate
from infprune.pipeline.estimate import advice

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


MIB = 2**20
FOUND = Estimate(
    weights=10 * MIB, batch=32, saved=4 * MIB, columns=MIB, factors=100 * MIB, solving=30 * MIB,
    forward=1, backward=1, gram=1, factorising=1, widest=99,
)  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "changes", "expected"),
    [
        (270, {}, []),
        (269, {}, ["data.batch_size=31 fits", "score.criterion=gate needs no factors and fits"]),
        (140, {}, ["data.batch_size=6 fits", "score.criterion=gate needs no factors and fits"]),
        (139, {}, ["score.criterion=gate needs no factors and fits", "score in 2 sweeps"]),
        (60, {"batch": 1}, ["score.criterion=gate needs no factors and fits", "score in 5 sweeps"]),
        (12, {}, ["even one sample is too much"]),
        (38, {}, ["a machine with more memory"]),
        (10**6, {"widest": 99_999}, ["a weight reads 99,999 inputs"]),
    ],
)
def test_advice_is_the_least_change_that_fits(budget, changes, expected):
    found = replace(FOUND, **changes)
    told = advice(found, budget * MIB)
    assert [line[: len(start)] for line, start in zip(told, expected, strict=True)] == expected
    for size in (int(line.split("=")[1].split()[0]) for line in told if "batch_size" in line):
        assert replace(found, batch=size).peak <= budget * MIB < replace(found, batch=size + 1).peak


def test_people_are_told_too():
    result = RUN.invoke(app, ["doctor", "--estimate", *WORDS, "--memory", "0.01"])
    assert result.exit_code == 0
    assert "Scoring resnet20 by influence" in result.stdout
    assert "batch_size" in result.stdout or "memory" in result.stdout


def test_a_file_has_no_estimate(tmp_path):
    result = RUN.invoke(app, ["doctor", "--estimate", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 2
