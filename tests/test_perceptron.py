"""Pruning for a perceptron: the script's theory against its simulation, and the crossover of easy and hard samples."""

import math
import runpy

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(pytestconfig):
    return runpy.run_path(str(pytestconfig.rootpath / "scripts/perceptron.py"))


def mean(script, alpha, keep, probe="0", dimension=80, seeds=6):
    return np.mean([script["simulated"](dimension, alpha, 0.3, keep, probe, seed) for seed in range(seeds)])


def test_easy_samples_win_when_data_are_scarce_and_hard_ones_when_they_abound(script):
    assert mean(script, 2, "easy") < mean(script, 2, "hard") - 0.1
    assert mean(script, 16, "hard") < mean(script, 16, "easy") - 0.01


@pytest.mark.parametrize("keep", ["hard", "easy", "random"])
@pytest.mark.parametrize(("alpha", "angle"), [(2, "0"), (4, "40")])
def test_simulation_approaches_the_theory(script, keep, alpha, angle):
    predicted = script["theory"](0.3 * alpha, 0.3, keep, float(angle))
    assert mean(script, alpha, keep, angle, dimension=120) == pytest.approx(predicted, abs=0.025)


def test_theory_of_unpruned_data_does_not_depend_on_the_probe(script):
    found = [script["theory"](3.0, 1.0, "random", angle) for angle in (0.0, 25.0, 60.0)]
    assert found == pytest.approx([found[0]] * 3, abs=2e-3)


def test_the_student_has_the_largest_margin(script):
    z = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    w = script["maximal_margin"](z)
    assert w == pytest.approx(np.array([1, 2]) / math.sqrt(5))
