"""`infprune prune` in a pipeline: the gate on latency, dry runs, the test report, the page."""

import json
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator
from safetensors import safe_open

from infprune.latency import Comparison, Quartiles
from infprune.pipeline import savings
from infprune.report.schema import schema
from runs import SMALL
from test_bad_input import FAST, one_line

NET = ["model.args={widths: [8]}", "model.checkpoint=random"]
TINY = [*FAST, *NET]


@pytest.fixture
def clock(monkeypatch):
    """Set what the networks take: milliseconds dense and pruned."""

    def take(dense, pruned):
        found = Comparison(15, Quartiles(dense, dense, dense), Quartiles(pruned, pruned, pruned), Quartiles(1, 1, 1))
        monkeypatch.setattr(savings, "compare", lambda *_: found)

    take(4.0, 2.0)
    return take


def metrics(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["infprune"])["metrics"]


@pytest.mark.parametrize(
    ("limit", "missed"),
    [
        (0.5, None),
        (0.49, "latency 0.5 of the dense 4 ms is above --max-latency 0.49"),
        (2, None),
        (1.99, "latency 2 ms is above --max-latency 1.99"),
    ],
)
def test_latency_is_a_share_or_milliseconds(infprune, clock, tmp_path, limit, missed):
    words = ["prune", *TINY, "--max-latency", limit, "-o", "p.safetensors", "--json"]
    outcome = infprune(*words)
    assert outcome.code == (5 if missed else 0), outcome.err
    found = outcome.json
    assert found["missed"] == ([missed] if missed else [])
    (gate,) = found["gates"]
    assert (gate["name"], gate["limit"], gate["passed"]) == ("max-latency", limit, missed is None)
    assert gate["value"] == (0.5 if limit < 1 else 2.0)
    marks = metrics(tmp_path / "p.safetensors")["missed"]
    assert marks == ([f"latency is above --max-latency {float(limit)}"] if missed else [])
    assert found["dry_run"] is False


def test_a_marked_file_does_not_depend_on_the_clock(infprune, clock, tmp_path):
    for name, pruned in (("a", 3.0), ("b", 3.5)):
        clock(4.0, pruned)
        assert infprune("prune", *TINY, "--max-latency", 0.5, "-o", name, "-q").code == 5
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_all_gates_on_page_and_report(infprune, clock, tmp_path):
    gates = ["--min-accuracy", 0.999, "--max-drop", 1, "--max-latency", 0.1]
    outcome = infprune("prune", *TINY, "--rate", 0.5, *gates, "--junit", "deep/p.xml", "-o", "a b.safetensors")
    assert outcome.code == 5
    assert outcome.err.count("error: ") == 1
    assert "below --min-accuracy 0.999; latency 0.5 of the dense 4 ms is above --max-latency 0.1" in one_line(outcome)
    (suite,) = ET.parse(tmp_path / "deep/p.xml").getroot()
    told = [(case.get("name"), case.find("failure") is None) for case in suite]
    assert told == [("min-accuracy", False), ("max-drop", True), ("max-latency", False)]
    page = (tmp_path / "runs/digits_resnet-prune/result.md").read_text()
    for line in (
        "| **FAIL** | max-latency | latency 0.5 of the dense 4 ms is above --max-latency 0.1 |",
        "| `linear` | 10 | 10 | it is an output of the network |",
        "Scope: global. Compensation: none.",
        "$ infprune prune -c runs/digits_resnet-prune/config.yaml",
    ):
        assert line in page.splitlines()
    assert "| pass | max-drop | accuracy stayed, within --max-drop 1.0 |" in page
    assert len(metrics(tmp_path / "a b.safetensors")["missed"]) == 2


def test_finetuning_takes_the_marks_off(infprune, tmp_path):
    assert infprune("prune", *TINY, "--min-accuracy", 0.999, "-o", "p.safetensors", "-q").code == 5
    assert len(metrics(tmp_path / "p.safetensors")["missed"]) == 1
    assert infprune("finetune", "p.safetensors", "finetune.epochs=0", "-o", "f.safetensors", "-q").code == 0
    tuned = metrics(tmp_path / "f.safetensors")
    assert "missed" not in tuned
    assert tuned["accuracy"]["finetuned"] == tuned["accuracy"]["cut"]  # no epoch has changed it


def test_the_page_repeats_the_run(infprune, tmp_path):
    infprune("prune", *TINY, "-q", "-o", "p.safetensors")
    before = (tmp_path / "p.safetensors").read_bytes()
    page = (tmp_path / "runs/digits_resnet-prune/result.md").read_text()
    assert "Quality gates: none." in page
    (command,) = [line[2:].split() for line in page.splitlines() if line.startswith("$ ")]
    (tmp_path / "p.safetensors").unlink()
    assert infprune(*command[1:], "-q").code == 0
    assert (tmp_path / "p.safetensors").read_bytes() == before


# --- dry runs ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_the_run_does(infprune, tmp_path):
    words = ["prune", "--rate", 0.5, "-o", "p.safetensors", "--json", *NET, *SMALL]
    outcome = infprune(*words, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.iterdir()) == []
    found, result = outcome.json, infprune(*words).json
    assert (found["command"], found["dry_run"]) == ("prune", True)
    for key in ("layers", "rate_achieved", "channels", "params", "macs", "bytes", "verified"):
        assert found[key] == result[key], key
    assert found["predicted"] > 0
    assert found["latency_ms"]["before"] > 0
    Draft202012Validator(json.loads(schema("prune"))).validate(found)
    Draft202012Validator(json.loads(schema("prune"))).validate(result)


def test_a_dry_run_for_people_judges_the_latency(infprune, clock, tmp_path):
    outcome = infprune("prune", *TINY, "--dry-run", "--max-latency", 0.4, "--min-accuracy", 1)
    assert outcome.code == 5
    assert one_line(outcome) == "error: latency 0.5 of the dense 4 ms is above --max-latency 0.4"
    assert "magnitude, 50.0% would be removed" in outcome.out
    assert "│ params                │" in outcome.out
    assert "Not cut: linear (10 channels): it is an output of the network" in outcome.out
    assert "nothing was written" in outcome.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_searches_the_rate(infprune, tmp_path):
    outcome = infprune("prune", *TINY, "--dry-run", "--max-drop", 0.9, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["rate"] == outcome.json["search"]["rate"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_that_fails_writes_nothing(infprune, tmp_path):
    outcome = infprune("prune", *TINY, "--dry-run", "--macs", "0.000001")
    assert outcome.code == 4
    one_line(outcome)
    assert list(tmp_path.iterdir()) == []


# --- the test report --------------------------------------------------------------------------------------------------


def test_without_gates_the_proof_is_reported(infprune, tmp_path):
    assert infprune("prune", *TINY, "--junit", "p.xml", "-q").code == 0
    (suite,) = ET.parse(tmp_path / "p.xml").getroot()
    assert [case.get("name") for case in suite] == ["proof"]


def test_a_failed_run_replaces_the_old_report(infprune, tmp_path):
    (tmp_path / "p.xml").write_text("<testsuites tests='1'/>")
    outcome = infprune("prune", *TINY, "--macs", "0.000001", "--junit", "p.xml")
    assert outcome.code == 4
    root = ET.parse(tmp_path / "p.xml").getroot()
    assert root.get("errors") == "1"
    error = root.find("testsuite/testcase/error")
    assert (error.get("message"), error.get("type")) == (one_line(outcome).removeprefix("error: "), "exit code 4")


BAD = {
    "no time at all": (["--max-latency", "0"], 2, "prune.max_latency: expected a share in (0, 1] or a number > 1"),
    "no number": (["--max-latency", "nan"], 2, "prune.max_latency"),
    "report of another kind": (["--junit", "p.json"], 2, "--junit: expected a name that ends in .xml, got p.json"),
    "report over the network": (["--junit", "p.xml", "-o", "p.xml"], 2, "p.xml is another file of this command"),
    "report of a dry run": (["--dry-run", "--junit", "dry.xml"], 2, "--dry-run writes no file, but --junit asks for"),
    "learned": (["--dry-run", "--method", "slimming"], 2, "finetune.method=slimming trains before it cuts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_words(infprune, tmp_path, case):
    words, code, text = BAD[case]
    outcome = infprune("prune", *TINY, *words)
    assert outcome.code == code, outcome.err
    assert text in one_line(outcome)
    assert [p.name for p in tmp_path.iterdir() if p.name != "p.xml"] == []


def test_a_report_that_cannot_be_written(infprune, tmp_path):
    (tmp_path / "taken").write_text("x")
    outcome = infprune("prune", *TINY, "--junit", "taken/p.xml", "-o", "p.safetensors")
    assert outcome.code == 6
    assert "cannot write taken/p.xml" in one_line(outcome)
    assert (tmp_path / "p.safetensors").is_file()


# --- the schemas ------------------------------------------------------------------------------------------------------


def test_schema_prints_one(infprune):
    for words in (["prune"], ["error"], ["model-manifest"], []):
        outcome = infprune("schema", *words)
        assert outcome.code == 0
        assert outcome.out == schema(*words)


def test_an_unknown_schema(infprune):
    outcome = infprune("schema", "prun")
    assert outcome.code == 2
    assert one_line(outcome) == "error: no schema named prun; did you mean prune?"
    assert "there are: compare, data_curve" in one_line(infprune("schema", "xyz"))


def test_a_printed_error_is_the_published_one(infprune):
    found = infprune("prune", "--rate", 2, "--json").json
    Draft202012Validator(json.loads(schema("error"))).validate(found)
