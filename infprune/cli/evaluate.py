"""`infprune evaluate`."""

from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    ThreadsOption,
    file_first,
    overridden,
)
from infprune.cli.running import execute
from infprune.progress import Progress


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE] [KEY=VALUE]...", help="A file infprune wrote (none: the configured network)."),
    ] = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Measure test accuracy of a written file, or of the configured network.

    Example: [bold]infprune evaluate runs/digits_resnet-prune/pruned.safetensors[/bold]
    """
    file, given = file_first(words)

    def work(progress: Progress) -> Any:
        from infprune.pipeline import evaluate as pipeline  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline.artifact import settings_for  # noqa: PLC0415

        overrides = overridden(given, run__device=device, run__threads=threads)
        settings = settings_for(file, config, overrides)
        return pipeline.run(file, settings, progress)

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_evaluate  # noqa: PLC0415

        show_evaluate(result, console)

    execute("evaluate", work, show, as_json=as_json, quiet=quiet)
