"""`infprune schema`."""

import difflib
from typing import Annotated

import typer

from infprune.cli.running import execute
from infprune.errors import ConfigError
from infprune.progress import Progress


def schema(
    command: Annotated[
        str | None,
        typer.Argument(
            help="A command (data_score: data score), error, model-, scores- or sample-scores-manifest; none: any."
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of what a command prints with --json, or of the manifest in a file.

    Example: [bold]infprune schema prune > prune.schema.json[/bold]
    """

    def work(_: Progress) -> str:
        from infprune.report import schema as report  # noqa: PLC0415 - torch loads when a command runs

        names = {**report.RESULTS, **report.MANIFESTS}
        if command is not None and command not in names:
            close = difflib.get_close_matches(command, names, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
            raise ConfigError(f"no schema named {command}; {hint}")
        return report.schema(command)

    execute("schema", work, lambda text, _: typer.echo(text, nl=False), as_json=False, quiet=False)
