"""`infprune train`."""

from typing import Any

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    OutputOption,
    Overrides,
    PrecisionOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    overridden,
)
from infprune.cli.running import execute
from infprune.progress import Progress


def train(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    resume: ResumeOption = False,  # noqa: FBT002 - typer's way of a flag
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Train the configured network from its initial weights.

    Example: [bold]infprune train -c digits train.epochs=40 -o weights.safetensors[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import train as pipeline  # noqa: PLC0415

        words = overridden(
            overrides,
            run__output=output,
            run__device=device,
            run__seed=seed,
            run__threads=threads,
            run__precision=precision,
        )
        return pipeline.run(configuration.load(config, words), progress, resume=resume)

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_train  # noqa: PLC0415

        show_train(result, console)

    execute("train", work, show, as_json=as_json, quiet=quiet, distributed=True)
