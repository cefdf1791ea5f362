"""YAML file + ``key=value`` overrides -> one ``Config``; every fault told at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from infprune.config.faults import explain, got, report
from infprune.config.layers import apply, assignments, settle
from infprune.config.schema import SECTIONS, Config
from infprune.config.yaml_file import Dumper, locate, parse, read_text, syntax
from infprune.errors import ConfigError


def load(source: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: a path or the name of a shipped config; None: ``./infprune.yaml``, else the shipped ``digits``.
        overrides: ``section.key=value`` with YAML values, applied after the file.

    Raises:
        ConfigError: the file is missing or not YAML, or the values have faults (all of them in one message).
    """
    label, path = locate(source, shipped())
    text = read_text(label, path, shipped())
    try:
        content, faults = parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{label}: {syntax(error, text)}") from None
    if not isinstance(content, dict | None):
        faults.append(f"expected a mapping of sections ({', '.join(SECTIONS)}), got {got(content)}")
        content = None
    return assemble(label, content or {}, overrides, faults)


def assemble(label: str, content: Mapping[Any, Any], overrides: Sequence[str], faults: Sequence[str] = ()) -> Config:
    """Build a configuration from a mapping (of a file, or stored in an artifact) and overrides.

    Raises:
        ConfigError: the values have faults, `faults` included.
    """
    found = list(faults)
    document: dict[Any, Any] = {}
    found += apply(document, (((key,), value) for key, value in content.items()))
    second = assignments(overrides, found)
    found += apply(document, second)
    found += settle(document)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        found += explain(error, document)
    if found:
        raise ConfigError(report("command line" if _mistyped(found, overrides, content) else label, found))
    return config


def _mistyped(faults: Sequence[str], overrides: Sequence[str], content: Mapping[Any, Any]) -> bool:
    """Whether all faults are of keys that overrides set, or of sections that they alone set."""
    typed = [override.partition("=")[0].strip() for override in overrides]

    def set_by(word: str, key: str) -> bool:
        return f"{key}.".startswith(f"{word}.") or (key not in content and f"{word}.".startswith(f"{key}."))

    keys = [fault.partition(": ")[0] for fault in faults]
    return all(key in overrides or any(set_by(word, key) for word in typed) for key in keys)


def dump(config: Config) -> str:
    """Write a configuration as YAML in the order of its fields; ``load`` of the text gives an equal one."""
    return yaml.dump(config.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def shipped() -> dict[str, Path]:
    """Return name -> path of the configs that come with the package (installed wheel first, then a checkout)."""
    here = Path(__file__).parents[1]
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}
