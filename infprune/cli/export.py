"""`infprune export`."""

from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    OutputOption,
    QuietOption,
    ThreadsOption,
    file_first,
    overridden,
)
from infprune.cli.running import execute
from infprune.errors import ConfigError
from infprune.progress import Progress


def export(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE] [KEY=VALUE]...", help="A file infprune wrote (none: the configured network)."),
    ] = None,
    config: ConfigOption = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="pt2 or onnx; default: as the output's name ends, else pt2.")
    ] = None,
    output: OutputOption = None,
    latency: Annotated[bool, typer.Option("--latency", help="Time it against the dense network.")] = False,  # noqa: FBT002 - typer's way of a flag
    batch: Annotated[
        int | None, typer.Option(help="With --latency: also time this many samples at once.", min=1)
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Write a network as .pt2 (torch.export) or ONNX for any batch size, once the file is checked against the network.

    Example: [bold]infprune export runs/digits_resnet-prune/pruned.safetensors -o net.onnx --latency[/bold]
    """
    file, given = file_first(words)

    def work(progress: Progress) -> Any:
        from infprune.pipeline import export as pipeline  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline.artifact import settings_for  # noqa: PLC0415

        if batch is not None and not latency:
            raise ConfigError("--batch says what --latency times; add --latency")
        values = overridden(given, run__output=output, run__device=device, run__threads=threads)
        settings = settings_for(file, config, values, data=False)
        batches = tuple(sorted({1, batch or 1})) if latency else ()
        return pipeline.run(file, settings, pipeline.Request(format_, batches), progress)

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_export  # noqa: PLC0415

        show_export(result, console)

    execute("export", work, show, as_json=as_json, quiet=quiet)
