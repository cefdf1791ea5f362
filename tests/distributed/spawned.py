"""Runs on several ranks of this machine."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}


def ranked(folder, *words):
    """`torchrun --standalone --nproc-per-node 2 WORDS` in a folder."""
    return _run([*TORCHRUN, *words], folder)


def alone(folder, *words):
    """`python WORDS` in a folder."""
    return _run([sys.executable, *words], folder)


def _run(command, folder):
    words = list(map(str, command))
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False)
