"""Gates: the limit itself passes, and the message says which side the value is on."""

import pytest

from infprune.config import load
from infprune.pipeline import gates
from infprune.pipeline.results import Accuracy, Change

JUDGED = {
    "accuracy at the limit": (gates.least_accuracy(0.5, 0.5), True, "accuracy 0.5000 is not below --min-accuracy 0.5"),
    "accuracy below": (gates.least_accuracy(0.49, 0.5), False, "accuracy 0.4900 is below --min-accuracy 0.5"),
    "drop at the limit": (gates.greatest_drop(0.25, 0.25), True, "accuracy dropped by 0.2500, within --max-drop 0.25"),
    "drop at the limit, but for rounding": (
        gates.greatest_drop(0.99 - 0.98, 0.01), True, "accuracy dropped by 0.0100, within --max-drop 0.01"),
    "drop of one sample more": (
        gates.greatest_drop(0.99 - 0.97999, 0.01), False, "accuracy dropped by 0.0100, more than --max-drop 0.01"),
    "drop beyond": (gates.greatest_drop(0.3, 0.25), False, "accuracy dropped by 0.3000, more than --max-drop 0.25"),
    "a rise": (gates.greatest_drop(-0.1, 0.0), True, "accuracy rose by 0.1000, within --max-drop 0.0"),
    "no change": (gates.greatest_drop(0.0, 0.0), True, "accuracy stayed, within --max-drop 0.0"),
    "share at the limit": (
        gates.greatest_latency(Change(4, 3), 0.75), True,
        "latency 0.75 of the dense 4 ms is not above --max-latency 0.75"),
    "as slow as dense": (
        gates.greatest_latency(Change(4, 4.1), 1), False, "latency 1.02 of the dense 4 ms is above --max-latency 1"),
    "milliseconds": (gates.greatest_latency(Change(4, 3), 2.5), False, "latency 3 ms is above --max-latency 2.5"),
    "agreement": (gates.least_agreement(0.9, 0.95), False, "agreement 0.9000 is below --min-agreement 0.95"),
}  # fmt: skip


@pytest.mark.parametrize("case", JUDGED)
def test_a_gate(case):
    gate, passed, message = JUDGED[case]
    assert (gate.passed, gate.message) == (passed, message)


def test_accuracy_is_judged_only_where_it_was_measured():
    settings = load("digits", ["prune.min_accuracy=0.9", "prune.max_drop=0.1", "prune.max_latency=0.5"])
    latency = Change(4, 3)
    assert [g.name for g in gates.of_prune(settings, latency, None)] == ["max-latency"]
    judged = gates.of_prune(settings, latency, Accuracy(0.95, 0.2, 0.8))
    assert [g.name for g in judged] == ["min-accuracy", "max-drop", "max-latency"]
    assert [g.value for g in judged] == [0.8, pytest.approx(0.15), 0.75]
    assert gates.missed(judged)[2] == "latency 0.75 of the dense 4 ms is above --max-latency 0.5"
    assert gates.marks(judged)[:2] == gates.missed(judged)[:2]
    assert gates.marks(judged)[2] == "latency is above --max-latency 0.5"
    assert gates.of_prune(load("digits"), latency, Accuracy(0.9)) == []
