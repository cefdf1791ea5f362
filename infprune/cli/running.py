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

from infprune import ranks
from infprune.cli.options import XML
from infprune.cli.progress import progress_for
from infprune.errors import INTERRUPTED, ConfigError, InfpruneError, InputError, QualityError
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
    distributed: bool = False,
) -> Any:
    """Run a command's work, render its result and turn its errors into one line and an exit code.

    `junit`: a file that holds the error as a test case where the work did not come so far as to write it.
    `distributed`: several ranks can share the work; one of them shows it.
    """
    try:
        _meet(command, distributed=distributed)
        result = work(progress_for(as_json=as_json, quiet=quiet or not ranks.leads()))
        _show(result, show, as_json=as_json, quiet=quiet or not ranks.leads())
        ranks.finish()
    except InfpruneError as error:
        _fail(Failure(command, str(error), error.exit_code), as_json=as_json, junit=junit)
    except KeyboardInterrupt:
        told = "interrupted" if ranks.world() == 1 else "interrupted, or another rank has ended"
        told += "; files already written are whole"
        _fail(Failure(command, told, INTERRUPTED), as_json=as_json, junit=junit)
    except typer.Exit as end:  # what was to be shown could not be
        ranks.fail(end.exit_code)
        raise
    except Exception as error:
        if ranks.lost(error):
            _fail(Failure(command, ranks.LOST, INTERRUPTED), as_json=as_json, junit=junit)
        ranks.fail(1)
        raise
    return result


def _meet(command: str, *, distributed: bool) -> None:
    """Join the other ranks, if there are any."""
    ranks.join()
    if not distributed and ranks.world() > 1:
        raise ConfigError(f"{command} runs in one process; start it without torchrun")


def _show(result: Any, show: Callable[[Any, Console], None], *, as_json: bool, quiet: bool) -> None:
    if not ranks.leads():
        return
    if as_json:
        from infprune.report.as_json import to_json  # noqa: PLC0415 - keeps --help fast

        _print(lambda: typer.echo(to_json(result)))
    elif not quiet:
        _print(lambda: show(result, Console()))


def enforce(missed: list[str], *, as_json: bool) -> None:
    """End with the exit code of missed gates, if there are any."""
    if missed and ranks.leads():
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

    if not ranks.leads():
        return result
    folder = Path(result.run_dir)
    result = replace(result, files=[str(folder / name) for name in renderers])
    contents = [render(result) for render in renderers.values()]
    atomic_writes(dict(zip(result.files, contents, strict=True)))
    return result


def _fail(failure: Failure, *, as_json: bool, junit: Path | None) -> NoReturn:
    code = ranks.fail(failure.exit_code)
    if not ranks.leads():
        raise typer.Exit(code)
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
