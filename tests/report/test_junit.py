"""JUnit XML: counts, cases, and whatever text a message holds."""

from dataclasses import replace
from xml.etree import ElementTree as ET

from test_rendering import PRUNED

from infprune.pipeline.contract import Failure
from infprune.pipeline.results import Gate
from infprune.report.junit import failure_junit, prune_junit

PASSED = Gate("max-drop", 0.02, 0.01, passed=True, message="accuracy dropped by 0.0100, within --max-drop 0.02")
MISSED = Gate("min-accuracy", 0.985, 0.98, passed=False, message="accuracy 0.9800 is below --min-accuracy 0.985")
NASTY = "<net> & \"co\" | 'x' \x1b[31m \x00 \udc80 \ufffe é 網"


def cases(text):
    root = ET.fromstring(text.encode())
    (suite,) = root
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors")}
    assert {key: int(root.get(key)) for key in counts} == counts
    assert suite.get("time") == root.get("time")
    assert len(suite) == counts["tests"]
    assert len(suite.findall("testcase/failure")) == counts["failures"]
    assert len(suite.findall("testcase/error")) == counts["errors"]
    return suite


def test_a_case_per_gate():
    suite = cases(prune_junit(replace(PRUNED, gates=[PASSED, MISSED])))
    assert (suite.get("name"), suite.get("time")) == ("infprune prune", "1.500")
    assert [c.get("name") for c in suite] == ["max-drop", "min-accuracy"]
    assert [c.get("classname") for c in suite] == ["infprune.prune"] * 2
    assert suite[0].find("system-out").text == PASSED.message
    assert suite[1].find("failure").get("message") == MISSED.message


def test_without_gates_the_proof():
    (case,) = cases(prune_junit(PRUNED))
    assert case.get("name") == "proof"
    assert "3.0e-07" in case.find("system-out").text


def test_an_error_is_a_case_too():
    (case,) = cases(failure_junit(Failure("prune", "macs: out of reach", 4)))
    assert case.find("error").attrib == {"message": "macs: out of reach", "type": "exit code 4"}


def test_any_text_is_valid_xml():
    told = "<net> & \"co\" | 'x' \ufffd[31m \ufffd \ufffd \ufffd é 網"
    (case,) = cases(failure_junit(Failure("prune", NASTY, 6)))
    assert case.find("error").get("message") == told
    for passed in (True, False):
        (case,) = cases(prune_junit(replace(PRUNED, gates=[Gate("g", 1, 1, passed=passed, message=NASTY)])))
        assert (case.find("system-out").text if passed else case.find("failure").get("message")) == told
