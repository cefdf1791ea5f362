"""What every command does around its work: progress, rendering, errors, exit codes."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from infprune.cli.options import XML
from infprune.cli.progress import progress_for
from infprune.errors import INTERRUPTED, InfpruneError, InputError, QualityError
from infprune.pipeline.contract import Failure
from infprune.progress import Progress


def execute(
    command: str,
    work: Callable[[Progress], Any],
    show: Callable[[Any, Console], None],
    *,
    as_json: bool,
    quiet: bool,
    junit: Path | None = None,
) -> Any:
    """Run a command's work, render its result and turn its errors into one line and an exit code.

    `junit`: a file that holds the error as a test case where the work did not come so far as to write it.
    """
    try:
        result = work(progress_for(as_json=as_json, quiet=quiet))
    except InfpruneError as error:
        _fail(Failure(command, str(error), error.exit_code), as_json=as_json, junit=junit)
    except KeyboardInterrupt:
        told = "interrupted; files already written are whole"
        _fail(Failure(command, told, INTERRUPTED), as_json=as_json, junit=junit)
    if as_json:
        from infprune.report.as_json import to_json  # noqa: PLC0415 - keeps --help fast

        _print(lambda: typer.echo(to_json(result)))
    elif not quiet:
        _print(lambda: show(result, Console()))
    return result


def enforce(missed: list[str], *, as_json: bool) -> None:
    """End with the exit code of missed gates, if there are any."""
    if missed:
        if not as_json:
            typer.echo(f"error: {'; '.join(missed)}", err=True)
        raise typer.Exit(QualityError.exit_code)


def _print(tell: Callable[[], None]) -> None:
    """Tell something on stdout, which may be full or closed; a reader that has gone away needs no message."""
    try:
        tell()
        sys.stdout.flush()
    except SystemExit as closed:  # rich's answer to a reader that has gone away
        raise typer.Exit(InputError.exit_code) from closed
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in its buffer would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _say(
                f"cannot write to standard output: {(error.strerror or str(error)).lower()}; free space or redirect it"
            )
        raise typer.Exit(InputError.exit_code) from error


def recorded(result: Any, renderers: Mapping[str, Callable[[Any], str | bytes]]) -> Any:
    """Write the files of a result into its run folder, by name, once all are rendered; the result then lists them."""
    from infprune.files import atomic_writes  # noqa: PLC0415 - keeps --help fast

    folder = Path(result.run_dir)
    result = replace(result, files=[str(folder / name) for name in renderers])
    contents = [render(result) for render in renderers.values()]
    atomic_writes(dict(zip(result.files, contents, strict=True)))
    return result


def _fail(failure: Failure, *, as_json: bool, junit: Path | None) -> NoReturn:
    if junit is not None and junit.suffix == XML:
        from infprune.files import atomic_write  # noqa: PLC0415 - keeps --help fast
        from infprune.report.junit import failure_junit  # noqa: PLC0415

        with suppress(InfpruneError):  # the first error is the one to tell
            atomic_write(junit, failure_junit(failure))
    if as_json:
        _print(lambda: typer.echo(json.dumps(asdict(failure))))
    _say(failure.error)
    raise typer.Exit(failure.exit_code)


def _say(message: str) -> None:
    """One line on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print("[red]error:[/red] ", end="")
    sys.stderr.write(_printable(message) + "\n")


def _printable(message: str) -> str:
    """Escape what a file or a word must not do to a terminal; a list of faults keeps its lines."""
    lines = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in message.split("\n  "))
    return "\n  ".join(lines)
