"""The command line starts fast: no torch, and little else."""

import resource
import subprocess
import sys

IMPORT, HELP = 0.1, 0.3  # CPU seconds asked for, beyond Python's start
SLACK = 3  # for slower machines


def seconds(*words):
    """The least CPU seconds of three runs."""

    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def test_import_and_help_are_fast():
    start = seconds("-c", "pass")
    assert seconds("-c", "import infprune") - start < SLACK * IMPORT
    assert seconds("-m", "infprune", "--help") - start < SLACK * HELP


def test_import_leaves_the_heavy_packages_out():
    heavy = "torch", "torchvision", "numpy", "pydantic", "rich", "typer"
    subprocess.run(
        [sys.executable, "-c", f"import sys, infprune; sys.exit(any(m in sys.modules for m in {heavy}))"], check=True
    )
    assert subprocess.run(
        [sys.executable, "-c", "import sys, torch; sys.exit('torch' in sys.modules)"], check=False
    ).returncode
