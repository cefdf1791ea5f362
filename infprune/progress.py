"""How long work tells how far it is. Stages call it; only the command line knows what it looks like."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One running bar."""

    def advance(self, note: str = "") -> None:
        """Go one step; `note` replaces the text beside the bar."""


class Progress(Protocol):
    """Makes bars."""

    def bar(self, description: str, total: int) -> AbstractContextManager[Bar]:
        """Open a bar of `total` steps for the time of a `with` block."""


class Silent:
    """Progress that says nothing."""

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Bar]:
        """Open a bar that shows nothing."""
        del description, total
        yield self

    def advance(self, note: str = "") -> None:
        """Go one step."""
