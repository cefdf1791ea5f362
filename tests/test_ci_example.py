"""The workflow that docs/ci.md hands out: its commands parse, and do on the built-in default what it says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import typer
import yaml

import infprune
from infprune.cli.app import app

DOCS = Path(__file__).parents[1] / "docs"
STEPS = yaml.safe_load((DOCS / "examples/github-actions.yml").read_text())["jobs"]["prune"]["steps"]
RUNS = {step["name"]: step["run"] for step in STEPS if "run" in step}


def test_every_command_is_understood():
    words = [shlex.split(script) for script in RUNS.values() if script.startswith("infprune ")]
    assert [w[1] for w in words] == ["prune", "prune", "compare"]
    group = typer.main.get_command(app)
    for _, command, *options in words:
        context = group.commands[command].make_context(command, list(options))
        assert context.params


def test_what_is_kept_is_what_is_written():
    (kept,) = (step["with"]["path"].split() for step in STEPS if "upload-artifact" in step.get("uses", ""))
    scripts = " ".join(RUNS.values())
    assert all(path.rstrip("/") in scripts for path in kept)


def test_the_page_names_every_gate():
    page = (DOCS / "ci.md").read_text()
    group = typer.main.get_command(app)
    options = {o for name in ("prune", "compare") for p in group.commands[name].params for o in p.opts}
    gates = {o for o in options if re.match(r"--(min|max)-", o)}
    assert len(gates) == 4
    assert {g for g in gates if f"`{g} " in page} == gates


@pytest.mark.slow
def test_the_workflow_runs(tmp_path):
    """Each script in a shell, as a runner would, with `infprune` on the path."""
    here = tmp_path / "bin"
    here.mkdir()
    package = Path(infprune.__file__).parents[1]
    (here / "infprune").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m infprune "$@"\n')
    (here / "infprune").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    env = os.environ | {
        "PATH": f"{here}:{os.environ['PATH']}",
        "PYTHONPATH": str(package),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    for name, script in RUNS.items():
        if name != "Install":
            done = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", script],
                cwd=work,
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (name, done.stderr)
            if name == "What would be cut":
                assert list(work.iterdir()) == []
                assert done.stderr.startswith('progress stage="')
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("| pass | max-drop |") == 2
    assert "| pass | min-agreement |" in summary
    assert "$ infprune prune -c runs/prune/config.yaml" in summary
    for report in ("prune.xml", "compare.xml"):
        root = ET.parse(work / report).getroot()
        assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "0", "0")
    small = infprune.load(work / "pruned.safetensors")
    assert 0 < sum(p.numel() for p in small.parameters()) < 222_570  # the dense network's


@pytest.mark.parametrize("name", ["schema/prune.json", "examples/github-actions.yml"])
def test_the_page_links_to_files_that_are_there(name):
    assert (DOCS / name).is_file()
    assert name.partition("/")[0] + "/" in (DOCS / "ci.md").read_text()
