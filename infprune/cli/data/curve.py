"""`infprune data curve`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    Overrides,
    QuietOption,
    SeedOption,
    ThreadsOption,
    overridden,
)
from infprune.cli.running import execute, recorded
from infprune.progress import Progress


def curve(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="A file of `infprune data score`.")],
    overrides: Overrides = None,
    config: ConfigOption = None,
    balance: Annotated[
        str | None, typer.Option(help="class (the same share of each class) or none (by scores alone).")
    ] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip trainings already done in this folder.")] = False,  # noqa: FBT002
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Train on every kept share, by strategy and at random: test accuracy with spread over seeds, table and plot.

    Example: [bold]infprune data curve sample-scores.safetensors samples.fractions='[0.2, 0.5]' samples.seeds=5[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import data_curve as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.data_figures import curve_png  # noqa: PLC0415
        from infprune.report.data_tables import curve_markdown  # noqa: PLC0415

        words = overridden(
            overrides, samples__balance=balance, run__device=device, run__seed=seed, run__threads=threads
        )
        result = pipeline.run(scores, configuration.load(config, words), progress, resume=resume)
        return recorded(
            result, {"data-curve.json": to_json, "data-curve.md": curve_markdown, "data-curve.png": curve_png}
        )

    def show(result: Any, console: Any) -> None:
        from infprune.report.data_tables import show_data_curve  # noqa: PLC0415

        show_data_curve(result, console)

    execute("data_curve", work, show, as_json=as_json, quiet=quiet, distributed=True)
