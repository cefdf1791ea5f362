"""Find and parse a YAML file; its own faults are told with line and column."""

import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from infprune.errors import ConfigError


def locate(source: str | None, shipped: Mapping[str, Path]) -> tuple[str, Path]:
    """Return the label and path of a config: as named, else `infprune.yaml` here, else the shipped `digits`."""
    local = Path("infprune.yaml")
    if source is None and local.exists():
        return str(local), local
    label = "digits" if source is None else source
    return label, shipped.get(label, Path(label))


def read_text(label: str, path: Path, shipped: Mapping[str, Path]) -> str:
    """Read a config file as UTF-8."""
    try:
        with path.open("rb") as file:  # which may be a pipe, or endless
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise ConfigError(f"{label}: expected a configuration of at most {LIMIT:,} bytes, got more")
        return data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(_missing(label, shipped)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ConfigError(f"{label}: line {line}: expected UTF-8 text, got byte 0x{byte:02x}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{label}: cannot read: {reason}; give a readable YAML file") from None


def _missing(label: str, shipped: Mapping[str, Path]) -> str:
    names = list(shipped)
    close = get_close_matches(Path(label).stem, names, 1, 0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{label}: no such file or shipped config{hint} (shipped: {', '.join(names) or 'none'})"


LIMIT = 2**20  # bytes
VALUES = 100_000  # in a document, each alias counted as what it stands for


class Loader(yaml.SafeLoader):
    """SafeLoader in which 1e-3 is a number (YAML 1.2) and 2026-01-31 is text."""


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what ``Loader`` would read as a number."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Quote text with unusual line breaks."""
        # PyYAML folds these line breaks as if they were a newline, and reads back a space.
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


Dumper.add_representer(str, Dumper.represent_str)


Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
for _side in (Loader, Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse(text: str) -> tuple[Any, list[str]]:
    """Return the value of a YAML text and its repeated keys; raises only ``yaml.YAMLError``."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, []
        if _size(node, {}) > VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {VALUES:,} values")
        return loader.construct_document(node), list(_repeats(node, (), set()))
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError):  # PyYAML's constructors on `!!int x`, `!!bool x`
        raise yaml.YAMLError("a value does not fit its type") from None


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Count the values below a node, itself included; infinite if it contains itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _repeats(node: yaml.Node, path: tuple[str, ...], seen: set[int]) -> Iterator[str]:
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        here = path
        if isinstance(key, yaml.ScalarNode):
            here = (*path, key.value)
            line = key.start_mark.line + 1
            if key.value in lines:
                yield f"{'.'.join(here)}: given twice, on lines {lines[key.value]} and {line}"
            lines[key.value] = line
        yield from _repeats(value, here, seen)


def syntax(error: yaml.YAMLError, text: str) -> str:
    """Say in one line what is wrong with a YAML text, and where."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"line {line}, column {column}: character U+{ord(text[error.position]):04X} is not allowed"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return str(error)
    said = [part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part]
    return f"line {mark.line + 1}, column {mark.column + 1}: {', '.join(said)}"
