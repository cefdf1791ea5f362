"""The reference pages of the documentation, from the code: `python scripts/reference.py` (`make reference`).

tests/test_reference.py holds the committed copies against the code, and the pages against what `--help` prints.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import typer

from infprune import config, errors
from infprune.attribution import METHODS
from infprune.cli.app import app
from infprune.config.faults import expected
from infprune.config.schema import SECTIONS, Config
from infprune.config.section import Section
from infprune.curvature import CURVATURES
from infprune.data import DATASETS
from infprune.files import atomic_write
from infprune.influence import FORMS
from infprune.models import MODELS
from infprune.report.schema import MANIFESTS, RESULTS
from infprune.scores import SCORES
from infprune.solvers import SOLVERS
from infprune.unlearning import METHODS as UNLEARNING

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by scripts/reference.py: change the code, then `make reference`. -->"
KINDS = {str: "text", int: "integer", float: "number", Path: "path"}
PLAIN_EXITS = {
    0: "Done.",
    1: "A bug in infprune (with its traceback).",
    errors.INTERRUPTED: "Interrupted, or another rank was (`torchrun`).",
}
LEAVES = (errors.ConfigError, errors.ArchitectureError, errors.BudgetError, errors.QualityError, errors.InputError)


def main() -> None:
    for name, text in pages().items():
        atomic_write(FOLDER / name, text)


def pages() -> dict[str, str]:
    """Every page by file name."""
    return {
        "commands.md": page("Commands", commands()),
        "configuration.md": page("Configuration", configuration()),
        "names.md": page("Names", names()),
        "exit-codes.md": page("Exit codes", exit_codes()),
        "schemas.md": page("JSON Schemas", schemas()),
    }


def page(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"# {title}", "", NOTE, "", *lines]).rstrip() + "\n"


def commands() -> Iterator[str]:
    yield "What `--help` says, on one page. Overrides are keys of the [configuration](configuration.md); what a command"
    yield "ends with is listed under [exit codes](exit-codes.md)."
    yield ""
    for name, command in walk(typer.main.get_command(app)):
        yield from [f"## {name}", "", *command_lines(name, command), ""]


def walk(group: Any, name: str = "infprune") -> Iterator[tuple[str, Any]]:
    """The commands with their full names; a group's own entry is left out."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def command_lines(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = [name, *(["[OPTIONS]"] if options else []), *map(argument_name, arguments)]
    yield from ["```text", " ".join(usage), "```", "", shown_help(command.help), ""]
    rows = [(code(argument_name(p)), p.help) for p in arguments]
    yield from table(["argument", "is"], rows)
    kinds = get_type_hints(command.callback)
    rows3 = [(", ".join(map(code, p.opts)), takes(p, kinds[p.name]), p.help) for p in options]
    yield from table(["option", "takes", "does"], rows3)


def argument_name(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    return parameter.name.upper() if parameter.required else f"[{parameter.name.upper()}]"


def takes(option: Any, annotation: Any) -> str:
    kind = next(k for k in (*get_args(annotation), annotation) if k is not NoneType)
    if kind is bool:
        return "-"
    default = "" if option.default is None else f" (default {plain(option.default)})"
    return (option.metavar or KINDS[kind]) + default


def plain(value: Any) -> str:
    """A default in YAML's words, on one line."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def shown_help(text: str) -> str:
    """Rich's markup as Markdown; examples are in bold there and code here."""
    return re.sub(r"\[/?bold\]", "`", text).replace("\\[", "[")


def configuration() -> Iterator[str]:
    yield "The keys of a YAML file (`-c FILE`), and of `key=value` words behind a command: `prune.rate=0.3`. A file"
    yield "holds only what it changes. Every run folder spells all values out in its `config.yaml`."
    yield ""
    for name, section in SECTIONS.items():
        yield from [f"## {name}", "", str(Config.model_fields[name].description), ""]
        if section.one_of:
            yield from [
                f"Exactly one of {', '.join(map(code, section.one_of))} has a value: a later one replaces it.",
                "",
            ]
        yield from table(["key", "takes", "default", "description"], fields(name, section))


def fields(name: str, section: type[Section]) -> Iterator[tuple[str, ...]]:
    for key, field in section.model_fields.items():
        null = ", or null" if NoneType in get_args(field.annotation) else ""
        default = plain(field.get_default(call_default_factory=True))
        yield code(f"{name}.{key}"), expected(field) + null, code(default), str(field.description)


def names() -> Iterator[str]:
    yield "What a name may be, with the key that takes it. Adding one is a file and a line: see"
    yield "[for developers](../developers.md)."
    yield ""
    rows = [(code(name), c.unit, first(c.score)) for name, c in SCORES.items()]
    yield from [*heading("Criteria", "score.criterion"), *table(["criterion", "unit", "score of a channel"], rows)]
    yield from [*heading("Networks", "model.name"), "Also `torchvision:NAME` and `timm:NAME`.", "", *registry(MODELS)]
    yield from [*heading("Datasets", "data.name"), *registry(DATASETS)]
    yield from [*heading("Curvatures", "influence.curvature"), *registry(CURVATURES)]
    yield from [*heading("Solvers", "influence.solver"), *registry(SOLVERS)]
    yield from [*heading("Forms of Theorem 1", "influence.form"), *registry(FORMS)]
    rows = [(code(name), method.unit, method.meaning) for name, method in METHODS.items()]
    methods = table(["method", "unit", "a large score says"], rows)
    yield from [*heading("Scores of training samples", "samples.method"), *methods]
    yield from [*heading("Ways to unlearn", "unlearn.method"), *registry(UNLEARNING)]
    yield from ["## Shipped configurations", "", "Names that `-c` takes: `infprune configs ls`.", ""]
    yield from table(["name", "what"], [(code(name), summary(path)) for name, path in config.shipped().items()])


def heading(title: str, key: str) -> list[str]:
    return [f"## {title}", "", f"`{key}`.", ""]


def registry(entries: Mapping[str, Callable[..., Any]]) -> Iterator[str]:
    return table(["name", "what"], [(code(name), first(entry)) for name, entry in entries.items()])


def first(thing: Any) -> str:
    """The first paragraph of a docstring."""
    text = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return text.removeprefix("Return ").replace("``", "`")


def summary(path: Path) -> str:
    """The first sentence of a configuration's heading comment."""
    comment = takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("# ").strip() for line in comment)
    return re.split(r"(?<=\.)\s", text)[0]


def exit_codes() -> Iterator[str]:
    yield "Scripts may rely on them. A message on stderr begins with `error: `; with `--json` stdout holds the error as"
    yield "an object ([schema](../schema/error.json))."
    yield ""
    known = PLAIN_EXITS | {leaf.exit_code: first(leaf) for leaf in LEAVES}
    yield from table(["code", "meaning"], [(str(number), text) for number, text in sorted(known.items())])


def schemas() -> Iterator[str]:
    yield "Of what commands print with `--json`, and of the manifests in files; `infprune schema NAME` prints them."
    yield "What may change within a version: [Pruning in a pipeline](../ci.md#the-json-by-version)."
    yield ""
    for name in RESULTS | MANIFESTS:
        yield f"- [{name}](../schema/{name}.json)"


def table(head: list[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table and an empty line; nothing without rows."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    if lines:
        yield from [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, ""]


def cell(text: str) -> str:
    """Text that a cell takes as text; code spans show `<` as it is."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    main()
