"""`infprune finetune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    OutputOption,
    Overrides,
    QuietOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    overridden,
)
from infprune.cli.running import RichProgress, execute


def finetune(
    model: Annotated[Path, typer.Argument(help="A file written by `infprune prune`.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,  # noqa: FBT002 - typer's way of a flag
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Fine-tune a pruned network; without -c with the data and settings stored in the file.

    Example: [bold]infprune finetune runs/digits_resnet-prune/pruned.safetensors finetune.epochs=5[/bold]
    """

    def work(progress: RichProgress) -> Any:
        from infprune.pipeline import train as pipeline  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline.artifact import settings_for  # noqa: PLC0415

        words = overridden(overrides, run__output=output, run__device=device, run__seed=seed, run__threads=threads)
        return pipeline.finetune(model, settings_for(model, config, words), progress, resume=resume)

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_train  # noqa: PLC0415

        show_train(result, console)

    execute("finetune", work, show, as_json=as_json, quiet=quiet)
