"""Options and fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device the numeric tests run on: cpu, cuda, mps")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # many small problems: threads only fight over the cores


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))


def _folder(variable):
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} is not set to a folder")
    return Path(value)


@pytest.fixture
def data_root():
    return _folder("INFPRUNE_DATA")


@pytest.fixture
def checkpoint_root():
    return _folder("INFPRUNE_CHECKPOINTS")
