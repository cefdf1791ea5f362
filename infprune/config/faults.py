"""Faults in words: the key path, what was expected, what came, the closest valid name."""

import reprlib
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from infprune.config.schema import SECTIONS

_NOUNS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "non-empty text",
    dict: "a mapping with text keys",
    list: "a list of texts",
}


def report(label: str, faults: list[str]) -> str:
    """Join faults into one message: one line for one fault, else a headline and a line each."""
    if len(faults) == 1:
        return f"{label}: {faults[0]}"
    return "\n  ".join([f"{label}: {len(faults)} faults", *faults])


def explain(error: ValidationError, document: dict[Any, Any]) -> list[str]:
    """Tell pydantic's errors in the words of the fields, one per key."""
    told: dict[tuple[Any, ...], str] = {}
    for item in error.errors(include_url=False, include_context=False):
        path = item["loc"][:2]
        if item["type"] in {"extra_forbidden", "invalid_key"} and len(item["loc"]) <= 2:
            told[path] = _unknown(tuple(str(key) for key in path))
        elif len(path) == 1:
            told[path] = f"expected a mapping, got {got(document[path[0]])}"
        else:
            field = SECTIONS[str(path[0])].model_fields[str(path[1])]
            value = document[path[0]][path[1]]
            told[path] = f"expected {expected(field)}, got {got(value)}{_near(field, value)}"
    return [f"{'.'.join(str(key) for key in path)}: {text}" for path, text in told.items()]


def _near(field: FieldInfo, value: Any) -> str:
    """The closest word of a field that takes one of several."""
    words = [word for word in get_args(field.annotation) if isinstance(word, str)]
    near = get_close_matches(value, words, 1) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def _unknown(path: tuple[str, ...]) -> str:
    *section, word = path
    here = list(SECTIONS[section[0]].model_fields if section else SECTIONS)
    leaves = {field for model in SECTIONS.values() for field in model.model_fields}
    near = [".".join([*section, name]) for name in get_close_matches(word, here, 1)]
    far = get_close_matches(word, leaves, 1)
    guess = near or [f"{name}.{far[0]}" for name, model in SECTIONS.items() if far and far[0] in model.model_fields]
    return f"unknown key; did you mean {' or '.join(guess)}?" if guess else f"unknown key; known: {', '.join(here)}"


def expected(field: FieldInfo) -> str:
    """Say what a field takes besides null."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "expected" in extra:
        return str(extra["expected"])
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(kinds)}"
    kind = kinds[0] if NoneType in get_args(field.annotation) else field.annotation
    noun = _NOUNS[get_origin(kind) or kind]
    return noun if noun == _NOUNS[str] else noun + _interval(field)


def _interval(field: FieldInfo) -> str:
    bounds = {word: getattr(m, word) for m in field.metadata for word in ("gt", "ge", "lt", "le") if hasattr(m, word)}
    left = {"gt": "(", "ge": "["}
    right = {"lt": ")", "le": "]"}
    lower = next((word for word in left if word in bounds), None)
    upper = next((word for word in right if word in bounds), None)
    if lower and upper:
        return f" in {left[lower]}{bounds[lower]}, {bounds[upper]}{right[upper]}"
    return f" {'>' if lower == 'gt' else '>='} {bounds[lower]}" if lower else ""


def got(value: Any) -> str:
    """Show a value that came, shortened, in YAML's words."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        return "an integer of thousands of digits"
