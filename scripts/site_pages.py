"""A hook of the documentation site (.mkdocs.yml): a folder in `nav` stands for its pages, in the order of their names.

So a new result or decision is one file, and no list of files has to be kept.
"""

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Called by MkDocs once the configuration is read."""
    config.nav = expanded(config.nav, Path(config.docs_dir))
    return config


def expanded(nav: list[Any], docs: Path) -> list[Any]:
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            entries += [
                {title: expanded(rest, docs) if isinstance(rest, list) else rest} for title, rest in entry.items()
            ]
        elif entry.endswith("/"):
            entries += [path.relative_to(docs).as_posix() for path in sorted((docs / entry).glob("*.md"))]
        else:
            entries.append(entry)
    return entries
