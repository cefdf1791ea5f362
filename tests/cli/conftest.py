"""Fixtures of the command-line tests."""

import os

import pytest

from runs import SMALL, call


@pytest.fixture
def infprune(tmp_path, monkeypatch):
    """Call the command line in an empty folder; returns exit code and both streams."""
    monkeypatch.chdir(tmp_path)
    return call


@pytest.fixture(scope="session")
def pruned(tmp_path_factory):
    """One pruned digits network for all tests that only read it: (folder, JSON)."""
    folder = tmp_path_factory.mktemp("pruned")
    here = os.getcwd()  # noqa: PTH109 - monkeypatch is function-scoped
    os.chdir(folder)
    try:
        outcome = call("prune", "--rate", "0.5", "--json", *SMALL)
    finally:
        os.chdir(here)
    assert outcome.code == 0, outcome.err
    return folder, outcome.json
