"""`infprune validate`."""

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


def validate(
    overrides: Overrides = None,
    config: ConfigOption = None,
    groups: Annotated[int | None, typer.Option(help="Random groups per size.")] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip sizes already retrained in this folder.")] = False,  # noqa: FBT002 - typer's way of a flag
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Hold Theorem 1 against retraining: random groups of parameters, predicted and actual loss and parameters.

    For small networks: they are fitted and retrained by Newton's method. Writes tables, JSON and scatter plots.

    Example: [bold]infprune validate -c breast-cancer --groups 50[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import validate as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.influence_figures import loss_png, scatter_png  # noqa: PLC0415
        from infprune.report.influence_tables import validate_markdown  # noqa: PLC0415

        words = overridden(overrides, retrain__groups=groups, run__device=device, run__seed=seed, run__threads=threads)
        made = pipeline.run(configuration.load(config, words), progress, resume=resume)
        return recorded(
            made.result,
            {
                "validate.json": to_json,
                "validate.md": validate_markdown,
                "parameters.png": lambda r: scatter_png(made.panels, r.rows),
                "loss.png": lambda r: loss_png(made.panels, r.rows),
            },
        )

    def show(result: Any, console: Any) -> None:
        from infprune.report.influence_tables import show_validate  # noqa: PLC0415

        show_validate(result, console)

    execute("validate", work, show, as_json=as_json, quiet=quiet)
