"""`infprune finetune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    MethodOption,
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


def finetune(
    model: Annotated[Path, typer.Argument(help="A file written by `infprune prune`.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    method: MethodOption = None,
    rate: Annotated[
        float | None, typer.Option(help="With --method: share of the channels that are left to remove.")
    ] = None,
    macs: Annotated[float | None, typer.Option(help="With --method: MACs to keep, a share or a number.")] = None,
    output: OutputOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    resume: ResumeOption = False,  # noqa: FBT002 - typer's way of a flag
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Fine-tune a pruned network; without -c with the data and settings stored in the file.

    Example: [bold]infprune finetune runs/digits_resnet-prune/pruned.safetensors finetune.epochs=5[/bold]

    Prune on while fine-tuning: [bold]infprune finetune pruned.safetensors --method inf-cp --macs 0.7[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune.pipeline import train as pipeline  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline.artifact import require_budget, settings_for  # noqa: PLC0415

        words = overridden(
            overrides,
            prune__rate=rate,
            prune__macs=macs,
            finetune__method=method,
            run__output=output,
            run__device=device,
            run__seed=seed,
            run__threads=threads,
            run__precision=precision,
        )
        settings = settings_for(model, config, words)
        if settings.finetune.method != "standard":
            require_budget(config, words, settings.finetune.method)
        result = pipeline.finetune(model, settings, progress, resume=resume)
        if result.joint is not None and result.joint.masks:
            from infprune.files import atomic_write  # noqa: PLC0415
            from infprune.report.joint_figure import joint_png  # noqa: PLC0415

            atomic_write(Path(result.artifact).with_suffix(".joint.png"), joint_png(result.joint))
        return result

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_train  # noqa: PLC0415

        show_train(result, console)

    execute("finetune", work, show, as_json=as_json, quiet=quiet, distributed=True)
