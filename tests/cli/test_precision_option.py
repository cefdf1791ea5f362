"""`--precision` of the commands that train or calibrate."""

from pathlib import Path

import pytest

from infprune.errors import ConfigError
from infprune.pipeline import prune, score, train

STORED = Path(__file__).parents[1] / "stored" / "v1" / "pruned.safetensors"
COMMANDS = {"score": score, "prune": prune, "train": train}


class ReachedError(Exception):
    """The pipeline was called, with these settings."""


def reached(*given, **_):
    raise ReachedError(next(settings for settings in given if hasattr(settings, "run")).run.precision)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "float32"),
        (["--precision", "auto"], "auto"),
        (["run.precision=float32", "--precision", "bf16"], "bf16"),
    ],
)
def test_the_option_is_the_setting(infprune, monkeypatch, command, words, expected):
    monkeypatch.setattr(COMMANDS[command], "run", reached)
    with pytest.raises(ReachedError, match=f"^{expected}$"):
        infprune(command, "-q", *words)


def test_finetune_takes_it_over_what_the_file_says(infprune, monkeypatch):
    monkeypatch.setattr(train, "finetune", reached)
    for words, expected in ([], "float32"), (["--precision", "bf16"], "bf16"):
        with pytest.raises(ReachedError, match=f"^{expected}$"):
            infprune("finetune", "-q", STORED, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_another_word_is_refused(infprune, command):
    outcome = infprune(command, "--precision", "fp16")
    assert outcome.code == ConfigError.exit_code
    assert "run.precision: expected one of float32, bf16, auto, got 'fp16'" in outcome.err
