import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from infprune.cli.app import app
from infprune.coupling.groups import ChannelLayer, CoupledSlice, Role
from infprune.estimate import Estimate
from infprune.passes import planned, whole_batches, without_factors
from infprune.pipeline.estimate import advice

RUN = CliRunner()
GATE = "score.criterion=gate needs no factors and fits"
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


@pytest.mark.parametrize("way", [["--memory", "0.5"], ["score.memory=0.5"]])
def test_too_little_memory_is_told_with_what_scoring_does(way):
    found = told(*WORDS, *way, "data.batch_size=4096")
    size = found["passes"]["batch_size"]
    setting = ", with score.memory=0.5" if way[0] == "--memory" else ""
    assert found["advice"] == [f"scored within the budget in one pass, {size} samples at a time{setting}", GATE]
    again = told(*WORDS, *way, f"data.batch_size={size}")
    assert again["advice"] == []
    assert again["memory"]["peak"] == again["passes"]["peak"] == found["passes"]["peak"] > 0.9 * 2**29


def test_batches_that_a_criterion_looks_at_stay_whole():
    found = told(*WORDS, "--memory", "0.5", "data.batch_size=4096", "score.criterion=inf-cp")
    assert found["passes"]["batch_size"] == 4096
    [first, *_] = found["advice"]
    assert first.startswith("data.batch_size=")


def test_several_passes_cost_their_time():
    whole = told(*WORDS, "prune.scope=global", "data.batch_size=4")
    little = (whole["memory"]["peak"] - whole["memory"]["factors"] // 2) / 2**30
    found = told(*WORDS, "prune.scope=global", "data.batch_size=4", "--memory", str(little))
    number = found["passes"]["number"]
    assert number > 1
    assert found["advice"][0].startswith(f"scored within the budget in {number} passes")
    assert found["passes"]["peak"] < found["memory"]["peak"]
    assert found["work"]["forward"] == whole["work"]["forward"]


MIB = 2**20
SHARES = {f"{name}.weight": 25 * MIB for name in "abcd"}
FOUND = Estimate(
    weights=10 * MIB, batch=32, saved=4 * MIB, columns=MIB, factors=100 * MIB, solving=30 * MIB,
    forward=1, backward=1, gram=1, factorising=1, widest=99, shares=SHARES,
)  # fmt: skip


def layer(*readers):
    slices = [
        CoupledSlice(f"{name}.weight", 1, Role.CONSUMER, torch.zeros(4, 1, dtype=torch.int64)) for name in readers
    ]
    return ChannelLayer("-".join(readers), tuple(slices))


LAYERS = [layer(name) for name in "abcd"]


@pytest.mark.parametrize(
    ("budget", "changes", "expected"),
    [
        (270, {}, []),
        (269, {}, ["scored within the budget in one pass, 31 samples", GATE]),
        (140, {}, ["scored within the budget in one pass, 6 samples", GATE]),
        (
            139,
            {},
            ["scored within the budget in 2 passes over the data", GATE],
        ),
        (
            70,
            {},
            ["scored within the budget in 4 passes over the data", GATE],
        ),
        (65, {"batch": 1}, ["scored within the budget in 4 passes", GATE]),
        (64, {}, ["at least 0.0635 GiB are needed (score.memory=0.0635), enough for 4 passes", GATE]),
        (12, {}, ["at least 0.0635 GiB", "even one sample is too much"]),
        (38, {}, ["at least 0.0635 GiB", GATE]),
        (10**6, {"widest": 99_999}, ["a weight reads 99,999 inputs"]),
    ],
)
def test_advice_is_the_least_change_that_fits(budget, changes, expected):
    found = replace(FOUND, **changes)
    told = advice(found, LAYERS, planned(found, LAYERS, budget * MIB), budget * MIB)
    assert [line[: len(start)] for line, start in zip(told, expected, strict=True)] == expected


def test_where_all_factors_are_needed_at_once_another_scope_may_fit():
    plan = planned(FOUND, LAYERS, 139 * MIB, together=True)
    assert (len(plan.parts), plan.peak) == (1, 140 * MIB)
    [least, scope, gate] = advice(FOUND, LAYERS, plan, 139 * MIB)
    assert least == "at least 0.1368 GiB are needed (score.memory=0.1368), enough for one pass, 6 samples at a time"
    assert scope.startswith("prune.scope=global fits, in 2 passes over the data")
    assert gate == GATE
    assert planned(FOUND, LAYERS, 0.1368 * 2**30, together=True).peak <= 0.1368 * 2**30


def test_whole_batches_need_smaller_ones():
    bare = without_factors(FOUND)
    plan = whole_batches(bare, LAYERS)
    assert advice(bare, LAYERS, plan, 30 * MIB) == ["data.batch_size=5 fits"]
    [least, code] = advice(bare, LAYERS, plan, 13 * MIB)
    ways = "score.memory=0.0137, data.batch_size=1"
    assert least == f"at least 0.0137 GiB are needed ({ways}), enough for one pass, one sample at a time"
    assert code == "even one sample is too much: checkpoint activations in the network's code"


def test_people_are_told_too():
    result = RUN.invoke(app, ["doctor", "--estimate", *WORDS, "--memory", "0.01"])
    assert result.exit_code == 0
    assert "Scoring resnet20 by influence" in result.stdout
    assert "batch_size" in result.stdout or "memory" in result.stdout


def test_a_file_has_no_estimate(tmp_path):
    result = RUN.invoke(app, ["doctor", "--estimate", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 2
