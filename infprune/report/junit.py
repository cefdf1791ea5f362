"""Results as JUnit XML, which CI systems show as test cases: one per quality gate."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from infprune.pipeline.compare_results import CompareResult
from infprune.pipeline.contract import Failure
from infprune.pipeline.prune_results import PruneResult
from infprune.pipeline.results import Gate

# What XML 1.0 cannot hold, escaped or not (its production 2, Char).
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def prune_junit(result: PruneResult) -> str:
    """The gates; without any the proof, which a written file has passed."""
    proof = f"equal to the masked dense network, largest relative error {result.verified.max_relative_error:.1e}"
    return _suite(result.command, result.gates, ("proof", proof), sum(result.seconds.values()))


def compare_junit(result: CompareResult) -> str:
    """The gates; without any the comparison itself."""
    told = f"agreement {result.agreement:.4f}, accuracy drop {result.drop:.4f}"
    return _suite(result.command, result.gates, ("comparison", told), sum(result.seconds.values()))


def failure_junit(failure: Failure) -> str:
    """A run that ended without a result: one case with an error."""
    root, suite = _root(failure.command, tests=1, failures=0, errors=1, seconds=0.0)
    case = _case(suite, failure.command, "run")
    ET.SubElement(case, "error", message=_clean(failure.error), type=f"exit code {failure.exit_code}")
    return _text(root)


def _suite(command: str, gates: Sequence[Gate], otherwise: tuple[str, str], seconds: float) -> str:
    cases = [(gate.name, gate.message, gate.passed) for gate in gates] or [(*otherwise, True)]
    root, suite = _root(command, len(cases), sum(not passed for *_, passed in cases), 0, seconds)
    for name, message, passed in cases:
        case = _case(suite, command, name)
        if passed:
            ET.SubElement(case, "system-out").text = _clean(message)
        else:
            ET.SubElement(case, "failure", message=_clean(message), type="quality gate")
    return _text(root)


def _root(command: str, tests: int, failures: int, errors: int, seconds: float) -> tuple[ET.Element, ET.Element]:
    counts = {"tests": str(tests), "failures": str(failures), "errors": str(errors), "time": f"{seconds:.3f}"}
    root = ET.Element("testsuites", counts)
    return root, ET.SubElement(root, "testsuite", {"name": f"infprune {command}", **counts})


def _case(suite: ET.Element, command: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=f"infprune.{command}", name=_clean(name), time="0")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
