"""Shell completion: the scripts that shells get, and what they are told."""

import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from infprune.cli.app import app
from infprune.config import shipped


def completions(shell, *words):
    """What the shell's script would ask for, of a line whose last word is not complete."""
    line = " ".join(["infprune", *words])
    asked = {"_INFPRUNE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return CliRunner().invoke(app, [], env=asked, prog_name="infprune").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_options_and_shipped_configurations_complete(shell):
    assert "finetune" in completions(shell, "fine")
    options = completions(shell, "prune", "--s")
    assert all(option in options for option in ("--scope", "--scores", "--seed"))
    assert "--rate" not in options
    assert "--junit" in completions(shell, "prune", "-c", "digits", "--j")
    assert "show" in completions(shell, "configs", "s")


@pytest.mark.parametrize("words", [["prune", "-c"], ["doctor", "--config"], ["configs", "show"], ["configs", "cp"]])
def test_every_shipped_name_completes(words):
    assert completions("bash", *words, "").split() == list(shipped())
    assert completions("bash", *words, "cifar10-resnet5").split() == ["cifar10-resnet56-infcp", "cifar10-resnet56"]
    assert completions("bash", *words, "my.y").strip() == ""  # bash then looks for files
    assert "_files" in completions("zsh", *words, "my.y")


@pytest.mark.parametrize(("shell", "line"), [("bash", "complete -o default -F"), ("zsh", "#compdef infprune")])
def test_the_script_is_shown(monkeypatch, shell, line):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    shown = CliRunner().invoke(app, ["--show-completion"], prog_name="infprune")
    assert line in shown.stdout
    assert f"_INFPRUNE_COMPLETE=complete_{shell}" in shown.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_what_is_installed(tmp_path):
    (tmp_path / "infprune").write_text(f'#!/bin/sh\nexec {sys.executable} -m infprune "$@"\n')
    (tmp_path / "infprune").chmod(0o755)
    script = """
        infprune --install-completion || exit 1
        source ~/.bash_completions/infprune.sh && grep -q infprune ~/.bashrc || exit 1
        COMP_WORDS=(infprune prune -c cifar10-resnet5) COMP_CWORD=3
        $(complete -p infprune | sed 's/.*-F \\([^ ]*\\).*/\\1/') infprune
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    env = os.environ | {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.splitlines()[-2:]) == {"cifar10-resnet56", "cifar10-resnet56-infcp"}
