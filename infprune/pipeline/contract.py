"""The `--json` contract: its version, and what an error prints. Needs no torch.

Within a version fields are added, never taken away, renamed or given another meaning.
"""

from dataclasses import dataclass
from typing import Literal

Version = Literal[1]
SCHEMA: Version = 1


@dataclass(frozen=True)
class Failure:
    """What a command prints with `--json` if it fails: one line, and the exit code (`infprune.errors`)."""

    command: str
    error: str
    exit_code: int
    schema_version: Version = SCHEMA
