"""Finished measurements on disk, by key, so that an interrupted run goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infprune.errors import ConfigError, InputError
from infprune.files import atomic_write, exists


class Store:
    """JSON values by key in one file; a run of another identity does not see them. `valid` judges a value read back.

    Raises:
        InputError: the file to resume from is damaged.
        ConfigError: it belongs to another identity.
    """

    def __init__(
        self, path: Path, identity: str, *, resume: bool, valid: Callable[[Any], bool] = lambda _: True
    ) -> None:
        self._path, self._identity = path, identity
        self._found: dict[str, Any] = {}
        if resume and exists(path):
            self._found = _stored(path, identity, valid)

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._found.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value; on disk when this returns."""
        self._found[key] = value
        atomic_write(self._path, json.dumps({"identity": self._identity, "measurements": self._found}, indent=1))


def _stored(path: Path, identity: str, valid: Callable[[Any], bool]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text() if path.is_file() else "")  # a device may have no end
        found: dict[str, Any] = dict(content["measurements"])
        made = content["identity"]
        if made == identity and not all(map(valid, found.values())):
            raise ValueError("not a measurement")  # noqa: TRY301 - told as any other damage
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"cannot resume from {path}: it is damaged; delete it to start over") from error
    if made != identity:
        raise ConfigError(
            f"cannot resume from {path}: it was measured with other settings, weights, data or versions; "
            "give another run.dir, or drop --resume to start over"
        )
    return found
