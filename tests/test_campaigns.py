"""Small campaigns of bad input and of kills; the long ones are `slow`. Their harness must be able to find something."""

import subprocess
import sys

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
PATIENT = pytest.mark.timeout(1200)  # 13 s of CPU; under coverage, on cores that ten processes share, many minutes


def campaign(config, script, *options):
    command = [sys.executable, config.rootpath / "scripts" / script, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=config.rootpath)


@LINUX
@PATIENT
def test_bad_input_ends_as_the_contract_says(pytestconfig):
    done = campaign(pytestconfig, "fuzz.py", "--cases", 34, "--seed", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "34 cases, seed 1" in done.stdout


@LINUX
@PATIENT
def test_kills_leave_whole_files_and_reruns_end_alike(pytestconfig):
    done = campaign(pytestconfig, "faults.py", "--kills", 2, "--commands", "finetune", "--seed", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| finetune | 2 |" in done.stdout


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_bad_inputs(pytestconfig):
    done = campaign(pytestconfig, "fuzz.py", "--cases", 1000, "--seed", 2)
    assert done.returncode == 0, done.stdout + done.stderr


@LINUX
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_and_faults_of_every_command(pytestconfig):
    done = campaign(pytestconfig, "faults.py", "--kills", 60, "--seed", 2)
    assert done.returncode == 0, done.stdout + done.stderr
