"""Commands on a pruned file of an earlier release."""

from pathlib import Path

import pytest

STORED = Path(__file__).parents[1] / "stored/v1/pruned.safetensors"


def test_evaluate_finds_what_the_file_claims(infprune):
    outcome = infprune("evaluate", STORED, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["accuracy"] == pytest.approx(outcome.json["recorded"], abs=2 / 359)
    assert outcome.json["recorded"] == pytest.approx(0.738, abs=1e-3)


def test_finetune_takes_it_up(infprune, tmp_path):
    outcome = infprune("finetune", STORED, "finetune.epochs=1", "-o", "f.safetensors", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["accuracy"]["after"] > 0.6
    assert (tmp_path / "f.safetensors").is_file()
