"""What every command does around its work: progress, rendering, errors, exit codes."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from infprune.errors import INTERRUPTED, InfpruneError


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, note: str = "") -> None:
        self._progress.update(self._task, advance=1, note=note)


class RichProgress:
    """Progress bars on stderr, with the time left."""

    def __init__(self, *, quiet: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._open = 0

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[_Bar]:
        """Open a bar; the outermost one starts the display."""
        if self._open == 0:
            self._progress.start()
        self._open += 1
        task = self._progress.add_task(description, total=total, note="")
        try:
            yield _Bar(self._progress, task)
        finally:
            self._open -= 1
            if self._open:
                self._progress.remove_task(task)
            else:
                self._progress.stop()
                self._progress.remove_task(task)


def execute(
    command: str,
    work: Callable[[RichProgress], Any],
    show: Callable[[Any, Console], None],
    *,
    as_json: bool,
    quiet: bool,
) -> Any:
    """Run a command's work, render its result and turn its errors into one line and an exit code."""
    try:
        result = work(RichProgress(quiet=quiet or as_json))
    except InfpruneError as error:
        _fail(command, str(error), error.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        _fail(command, "interrupted; files already written are whole", INTERRUPTED, as_json=as_json)
    if as_json:
        from infprune.report.as_json import to_json  # noqa: PLC0415 - keeps --help fast

        typer.echo(to_json(result))
    elif not quiet:
        show(result, Console())
    return result


def recorded(result: Any, renderers: Mapping[str, Callable[[Any], str | bytes]]) -> Any:
    """Write the files of a result into its run folder, by name, once all are rendered; the result then lists them."""
    from infprune.files import atomic_write  # noqa: PLC0415 - keeps --help fast

    folder = Path(result.run_dir)
    result = replace(result, files=[str(folder / name) for name in renderers])
    contents = [render(result) for render in renderers.values()]
    for file, content in zip(result.files, contents, strict=True):
        atomic_write(file, content)
    return result


def _fail(command: str, message: str, code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"schema_version": 1, "command": command, "error": message, "exit_code": code}))
    Console(stderr=True, soft_wrap=True, highlight=False).print("[red]error:[/red] ", end="")
    sys.stderr.write(message + "\n")
    raise typer.Exit(code)
