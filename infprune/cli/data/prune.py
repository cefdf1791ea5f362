"""`infprune data prune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    JsonOption,
    OutputOption,
    Overrides,
    QuietOption,
    SeedOption,
    overridden,
)
from infprune.cli.running import execute
from infprune.progress import Progress


def prune(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="A file of `infprune data score`.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    keep: Annotated[float | None, typer.Option(help="Share of the scored samples to keep.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="hard (largest scores), easy (smallest) or middle (around the median).")
    ] = None,
    balance: Annotated[
        str | None, typer.Option(help="class (the same share of each class) or none (by scores alone).")
    ] = None,
    output: OutputOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Choose training samples by their scores and write the subset file that data.subset takes.

    Example: [bold]infprune data prune sample-scores.safetensors --keep 0.5 --strategy hard[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import data_prune as pipeline  # noqa: PLC0415

        words = overridden(
            overrides,
            samples__keep=keep,
            samples__strategy=strategy,
            samples__balance=balance,
            run__output=output,
            run__seed=seed,
        )
        return pipeline.run(scores, configuration.load(config, words), progress)

    def show(result: Any, console: Any) -> None:
        from infprune.report.data_tables import show_data_prune  # noqa: PLC0415

        show_data_prune(result, console)

    execute("data_prune", work, show, as_json=as_json, quiet=quiet)
