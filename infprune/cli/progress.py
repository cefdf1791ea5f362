"""Progress on stderr: bars for people, lines for logs, nothing on request."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from infprune.progress import Progress, Silent

SECONDS = 1.0  # between two lines


def progress_for(*, as_json: bool, quiet: bool) -> Progress:
    """Bars on a terminal (none beside JSON), else lines; with `quiet` nothing."""
    if quiet:
        return Silent()
    stream = Console(stderr=True).file  # Rich's null file where stderr is closed
    if stream.isatty():
        return Silent() if as_json else RichProgress()
    return LineProgress(stream)


class _RichBar:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, note: str = "") -> None:
        self._bars.update(self._task, advance=1, note=note)


class RichProgress:
    """Progress bars on stderr, with the time left."""

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._open = 0

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[_RichBar]:
        """Open a bar; the outermost one starts the display."""
        if self._open == 0:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(description, total=total, note="")
        try:
            yield _RichBar(self._bars, task)
        finally:
            self._open -= 1
            if self._open:
                self._bars.remove_task(task)
            else:
                self._bars.stop()
                self._bars.remove_task(task)


class LineProgress:
    """Progress as logfmt lines, `progress stage="rates" done=2 total=6 elapsed=1.2 note="0.475"`.

    A stage tells of its steps when a second has passed since the last line of any stage, and of its last step if it
    has told of one before.
    """

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._last = -SECONDS  # the first step is told

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator["_Lines"]:
        """Open a stage."""
        lines = _Lines(self, description, total)
        lines.step()
        try:
            yield lines
        finally:
            lines.close()

    def now(self) -> float:
        """Seconds of the clock."""
        return self._clock()

    def due(self) -> bool:
        """Whether the last line is old enough."""
        return self.now() - self._last >= SECONDS

    def print(self, line: str) -> None:
        """Write one line at once; work goes on where nobody reads it any more."""
        with suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()
        self._last = self.now()


class _Lines:
    def __init__(self, progress: LineProgress, stage: str, total: int) -> None:
        self._progress, self._stage, self._total = progress, stage, total
        self._start = progress.now()
        self._done, self._told, self._note = 0, -1, ""

    def advance(self, note: str = "") -> None:
        self._done += 1
        self._note = note
        self.step()

    def step(self) -> None:
        if self._progress.due():
            self._print()

    def close(self) -> None:
        if -1 < self._told < self._done:
            self._print()

    def _print(self) -> None:
        elapsed = self._progress.now() - self._start
        words = [f"stage={_quoted(self._stage)} done={self._done} total={self._total} elapsed={elapsed:.1f}"]
        words += [f"note={_quoted(self._note)}"] if self._note else []
        self._progress.print(" ".join(["progress", *words]))
        self._told = self._done


def _quoted(text: str) -> str:
    """In double quotes, on one line; ASCII, so that no log garbles it."""
    return json.dumps(text)
