"""Options and fixtures shared by all tests."""

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device the numeric tests run on: cpu, cuda, mps")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # many small problems: threads only fight over the cores


def pytest_collectstart(collector):
    """Networks that a test file makes while it is imported are the same in every run."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))
