"""Every command block of README and docs is run, here by default or with `-m slow`, or says why not.

A page's blocks share one folder and one Python namespace, in order. `pip install` is left to `.ci/run`. Whole numbers
that are shown count where a block runs by default and as it stands: those do not depend on the machine.
"""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from documented import PAGES, ROOT, blocks, missing, steps
from runs import call

BLOCKS = {page.relative_to(ROOT).as_posix(): blocks(page.read_text(), page.name) for page in PAGES}
RUN = {page: [b for b in found if b.runs and not b.fault] for page, found in BLOCKS.items()}
QUICK = [page for page, found in RUN.items() if any(not b.slow and b.file is None for b in found)]
SLOW = [page for page, found in RUN.items() if any(b.slow for b in found)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory; modules imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)) or name == "mypkg":
            del sys.modules[name]


def test_every_block_is_run_or_says_why_not():
    faults = [f"{block}: {block.fault}" for found in BLOCKS.values() for block in found if block.fault]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", QUICK)
def test_quick_blocks_do_what_they_show(page, folder):
    perform([b for b in RUN[page] if not b.slow])


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_blocks_do_what_they_show(page, folder):
    perform(RUN[page])


def perform(todo):
    namespace = {}
    for block in todo:
        if block.file is not None:
            write(Path(block.file), block.body)
        elif block.language == "python":
            exec(compile(block.body, str(block), "exec"), namespace)  # noqa: S102 - our own pages
        else:
            for command, shown in steps(block):
                printed = "".join(run(part.strip(), block) for part in command.split(" && "))
                absent = missing(shown, printed, exactly=not (block.slow or block.words))
                assert not absent, f"{block}: {command}\nnot printed:\n" + "\n".join(absent) + f"\nbut:\n{printed}"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()


def run(command, block):
    program, *words = shlex.split(command)
    if [program, *words[:1]] == ["pip", "install"]:
        return ""
    if program == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", *words, *block.words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, f"{block}: {command}\nended with {done.returncode}: {done.stderr}"
        return done.stdout
    assert program == "infprune", f"{block}: only infprune's commands are run, not {program}"
    outcome = call(*words, *block.words)
    assert outcome.code == 0, f"{block}: {command}\nended with {outcome.code}: {outcome.err}"
    return outcome.out
