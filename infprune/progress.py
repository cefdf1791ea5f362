"""How long work tells how far it is. Stages call it; only the command line knows what it looks like."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """One running bar."""

    def advance(self, note: str = "") -> None:
        """Go one step; `note` replaces the text beside the bar."""


class Progress(Protocol):
    """Makes bars."""

    def bar(self, description: str, total: int) -> AbstractContextManager[Bar]:
        """Open a bar of `total` steps for the time of a `with` block."""


def told(items: Iterable[T], bar: Bar) -> Iterator[T]:
    """Pass items on; a step each, once it has been dealt with."""
    for item in items:
        yield item
        bar.advance()


class Silent:
    """Progress that says nothing."""

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Bar]:
        """Open a bar that shows nothing."""
        del description, total
        yield self

    def advance(self, note: str = "") -> None:
        """Go one step."""
