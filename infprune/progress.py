"""How long work tells how far it is. Stages call it; only the command line knows what it looks like."""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters tell about their own insides; what fails raises all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
