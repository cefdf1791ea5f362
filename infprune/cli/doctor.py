"""`infprune doctor`."""

from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    file_first,
    overridden,
)
from infprune.cli.running import execute
from infprune.errors import ConfigError
from infprune.progress import Progress


def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE] [KEY=VALUE]...", help="A file infprune wrote (none: the configured network)."),
    ] = None,
    config: ConfigOption = None,
    seconds: Annotated[
        float, typer.Option(help="Stop after this time; what was not tried by then is frozen.", min=0)
    ] = 300.0,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Stop above this much main memory; default: 90% of the machine's.", min=0),
    ] = None,
    estimate: Annotated[  # noqa: FBT002
        bool, typer.Option("--estimate", help="Memory and time that scoring would take; no weight is allocated.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every coupled tensor of every layer.")] = False,  # noqa: FBT002 - typer's way of a flag
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    r"""Show what can be cut in a network, what cannot, and why. Needs no weights, and no data if model.inputs is set.

    Time and memory are looked at when torch is called: what a network does for long between two calls is not stopped.

    Example: [bold]infprune doctor model.name=torchvision:resnet50 model.inputs='[{shape: \[3, 224, 224]}]'[/bold]
    """
    file, given = file_first(words)

    def work(progress: Progress) -> Any:
        from infprune.pipeline import doctor as pipeline  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline.artifact import settings_for  # noqa: PLC0415

        if estimate and file is not None:
            raise ConfigError(f"--estimate: expected a configured network, got the file {file}; drop one of them")
        values = overridden(given, run__device=device, run__seed=seed, run__threads=threads)
        settings = settings_for(file, config, values, data=False)
        if estimate:
            from infprune.pipeline import estimate as estimating  # noqa: PLC0415

            return estimating.run(settings, memory, progress)
        return pipeline.run(file, settings, pipeline.Limits(seconds, memory), progress)

    def show(result: Any, console: Any) -> None:
        if estimate:
            from infprune.report.estimate_table import show_estimate  # noqa: PLC0415

            show_estimate(result, console)
            return
        from infprune.report.doctor_tree import show_doctor  # noqa: PLC0415

        show_doctor(result, console, verbose=verbose)

    execute("doctor", work, show, as_json=as_json, quiet=quiet)
