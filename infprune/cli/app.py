"""The application and its entry point."""

import signal
import sys
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer

from infprune import __version__, ranks
from infprune.cli import (
    compare,
    configs,
    data,
    doctor,
    evaluate,
    export,
    features,
    finetune,
    layers,
    prune,
    report,
    schema,
    score,
    trace,
    train,
    unlearn,
    validate,
)
from infprune.errors import INTERRUPTED

app = typer.Typer(
    name="infprune",
    help="Make trained PyTorch networks smaller: score channels by influence, cut, compensate, prove.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("score")(score.score)
app.command("prune")(prune.prune)
app.command("finetune")(finetune.finetune)
app.command("report")(report.report)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.command("validate")(validate.validate)
app.command("layers")(layers.layers)
app.command("features")(features.features)
app.command("unlearn")(unlearn.unlearn)
app.command("trace")(trace.trace)
app.command("schema")(schema.schema)
app.add_typer(configs.app, name="configs")
app.add_typer(data.app, name="data")


def _version(asked: bool) -> None:  # noqa: FBT001 - typer passes the flag
    if asked:
        typer.echo(f"infprune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # noqa: FBT002 - typer's way of a flag
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def _terminated(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; SIGTERM ends like Ctrl-C, with exit code 130."""
    signal.signal(signal.SIGTERM, _terminated)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that a terminal lacks is no reason to fail
    code: str | int | None = 0
    try:
        app(prog_name="infprune")  # in usage and completion, also where it runs as `python -m infprune`
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code
    if isinstance(code, int):
        ranks.leave(code)
    sys.exit(code)
