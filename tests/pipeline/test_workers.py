"""Work in processes of their own: in order, and what happens when one fails or is killed."""

import os

import pytest

from infprune.config import Config
from infprune.errors import ConfigError, InputError
from infprune.pipeline.workers import worked


def _make(settings):
    def work(key):
        if key == "killed":
            os._exit(9)
        if key == "wrong":
            raise InputError("bad sample; repair it")
        return f"{key} {settings.run.seed} {os.getpid()}"

    return work


@pytest.mark.slow
def test_results_come_in_order_from_other_processes():
    found = list(worked(["a", "b", "c"], _make, Config(), 2))
    assert [key for key, _ in found] == ["a", "b", "c"]
    assert [value.rpartition(" ")[0] for _, value in found] == ["a 0", "b 0", "c 0"]
    assert str(os.getpid()) not in {value.rpartition(" ")[2] for _, value in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "error", "told"), [("killed", ConfigError, "was killed"), ("wrong", InputError, "bad")]
)
def test_failures_are_told(key, error, told):
    with pytest.raises(error, match=told):
        list(worked(["a", key], _make, Config(), 2))
