"""The committed reference pages: up to date with the code, and the same as what `--help` prints."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infprune import errors
from infprune.cli.app import app
from infprune.config.schema import SECTIONS

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts/reference.py"))
PAGES = SCRIPT["pages"]()
COMMANDS = dict(SCRIPT["walk"](typer.main.get_command(app)))
HELP = PAGES["commands.md"].split("\n## ")[1:]
SHOWN = {section.partition("\n")[0]: section for section in HELP}
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_committed_page_is_up_to_date(name):
    assert (ROOT / "docs/reference" / name).read_text() == PAGES[name], "run `make reference`"


def test_nothing_else_is_there():
    assert {path.name for path in (ROOT / "docs/reference").iterdir()} == set(PAGES)


def test_every_command_is_shown():
    assert list(SHOWN) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_says_what_help_says(name):
    """Every text and option of the page is in the help, whatever the frames of the installed typer."""
    done = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert done.exit_code == 0
    printed = words(done.output)
    lost = [text for text in told(SHOWN[name]) if words(text) not in printed]
    assert not lost, done.output


def told(section):
    """The paragraphs and the cells of a command's section, less headings and types."""
    for line in section.splitlines()[1:]:
        if line.startswith(("|---", "| argument |", "| option |", "```", "infprune ")) or not line:
            continue
        cells = re.split(r"(?<!\\)\|", line)[1:-1] if line.startswith("|") else [line]
        first, *others = cells
        yield from first.replace("`", "").split(", ") if line.startswith("|") else [first.replace("`", "")]
        yield from others[-1:]


def words(text):
    """Without frames, code marks, brackets, capitals and line breaks."""
    plain = re.sub(r"[\u2500-\u257f`\[\]{}]", " ", text.replace("&lt;", "<").replace("\\|", "|"))
    return " ".join(plain.lower().split())


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_are_understood(name):
    found = re.findall(r"^[^|\n]*: `(infprune [^`]+)`", SHOWN[name], re.MULTILINE)
    assert found
    for example in found:
        path, rest = resolved(shlex.split(example.partition(" > ")[0]))
        context = COMMANDS[path].make_context(path, rest)
        assert context.command is COMMANDS[path]


def resolved(given):
    """The command's full name and the words behind it."""
    size = 3 if " ".join(given[:3]) in COMMANDS else 2
    return " ".join(given[:size]), given[size:]


def test_every_field_is_described():
    for name, section in SECTIONS.items():
        for key in section.model_fields:
            (row,) = [r for r in PAGES["configuration.md"].splitlines() if r.startswith(f"| `{name}.{key}` |")]
            assert all(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])


def test_readme_and_page_list_the_same_exit_codes():
    listed = [int(code) for code in re.findall(r"^\| (\d+) \|", PAGES["exit-codes.md"], re.MULTILINE)]
    of_readme = README.partition("### Exit codes")[2].partition("\n## ")[0]
    assert listed == [int(code) for code in re.findall(r"^\| (\d+) \|", of_readme, re.MULTILINE)]
    leaves = {leaf.exit_code for leaf in errors.InfpruneError.__subclasses__()}
    assert set(listed) == leaves | {0, 1, errors.INTERRUPTED}


@pytest.mark.parametrize("registry", ["SCORES", "MODELS", "DATASETS", "CURVATURES", "SOLVERS", "FORMS", "METHODS"])
def test_every_name_says_what_it_is(registry):
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in PAGES["names.md"].splitlines()]
    said = {row[0].strip("`"): row[-1] for row in rows if row[0].startswith("`")}
    assert not [name for name in SCRIPT[registry] if len(said[name]) < 12]
