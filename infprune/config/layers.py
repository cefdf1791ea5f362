"""The file, then the overrides: one document, the later word wins."""

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from infprune.config.faults import got
from infprune.config.schema import SECTIONS
from infprune.config.section import choice, said
from infprune.config.yaml_file import parse

_Assignment = tuple[tuple[Any, ...], Any]


def assignments(overrides: Sequence[str], faults: list[str]) -> list[_Assignment]:
    """Read `a.b=value` overrides; malformed ones are added to `faults`."""
    found: list[_Assignment] = []
    for override in overrides:
        key, sign, text = override.partition("=")
        keys = tuple(key.strip().split("."))
        if not sign or not all(keys):
            faults.append(f"{override}: expected key=value, for example prune.rate=0.3")
            continue
        try:
            value, repeats = parse(text)
        except yaml.YAMLError:
            faults.append(f"{key}: expected a YAML value, got {got(text)}")
            continue
        faults += [f"{key}.{repeat}" for repeat in repeats]
        found.append((keys, value))
    return found


def apply(document: dict[Any, Any], layer: Iterable[_Assignment]) -> list[str]:
    """Write a layer into the document; the word of a choice given here replaces the words of earlier layers."""
    given: dict[Any, dict[Any, Any]] = {}
    for keys, value in layer:
        leaves = [(keys, value)]
        if len(keys) == 1 and isinstance(value, dict):  # a section's keys are merged, a field's value is replaced
            document.setdefault(keys[0], {})
            leaves = [((*keys, key), leaf) for key, leaf in value.items()]
        for path, leaf in leaves:
            _set(document, path, leaf)
            if len(path) == 2:
                given.setdefault(path[0], {})[path[1]] = leaf
    faults = []
    for name, section in SECTIONS.items():
        words = said(section.one_of, given.get(name, {}))
        if len(words) > 1:
            faults.append(f"{name}: {choice(section.one_of, words)}")
        if words and isinstance(document[name], dict):
            for word in set(section.one_of) - {words[-1]}:
                document[name].pop(word, None)
    return faults


def given(overrides: Sequence[str], section: str) -> set[Any]:
    """The keys of a section that overrides give a value, however they are written; malformed overrides give none."""
    document: dict[Any, Any] = {}
    apply(document, assignments(overrides, []))
    values = document.get(section)
    return {key for key, value in values.items() if value is not None} if isinstance(values, dict) else set()


def _set(document: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    node = document
    for depth, key in enumerate(path[:-1]):
        child = node.get(key)
        if depth == 0 and not isinstance(child, dict | None):
            return  # `prune: 5` in the file stays, to be told as a fault
        node[key] = dict(child) if isinstance(child, dict) else {}  # a copy: YAML aliases share their mappings
        node = node[key]
    node[path[-1]] = value


def settle(document: dict[Any, Any]) -> list[str]:
    """Read an empty section as its defaults, and find the choices whose every word is null."""
    faults = []
    for name, section in SECTIONS.items():
        if document.get(name, ...) is None:
            document[name] = {}
        values = document.get(name)
        if section.one_of and isinstance(values, dict) and section.one_of[0] in values:
            words = said(section.one_of, values)
            if not words:
                faults.append(f"{name}: {choice(section.one_of, words)}")
                del values[section.one_of[0]]
    return faults
