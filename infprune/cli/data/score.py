"""`infprune data score`."""

from functools import partial
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    OutputOption,
    Overrides,
    QuietOption,
    SeedOption,
    TableOption,
    ThreadsOption,
    overridden,
)
from infprune.cli.running import execute, recorded
from infprune.progress import Progress


def score(
    overrides: Overrides = None,
    config: ConfigOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="influence, self-influence, memorisation, out-of-fold, el2n, grand, forgetting, prototypes, random "
            "(see samples)."
        ),
    ] = None,
    output: OutputOption = None,
    table: TableOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip trainings already done in this folder.")] = False,  # noqa: FBT002
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Score every training sample, larger is more important, and write a scores file, a table and a histogram.

    Example: [bold]infprune data score -c digits --method el2n[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import data_score as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.data_figures import histogram_png  # noqa: PLC0415
        from infprune.report.table_files import check_format, written_scores  # noqa: PLC0415

        check_format(table)
        words = overridden(
            overrides,
            samples__method=method,
            run__output=output,
            run__device=device,
            run__seed=seed,
            run__threads=threads,
        )
        result = pipeline.run(configuration.load(config, words), progress, resume=resume)
        files: dict[str, Any] = {"data-score.json": to_json, "data-score.png": histogram_png}
        if table:
            files[f"data-score.{table}"] = partial(written_scores, table)
        return recorded(result, files)

    def show(result: Any, console: Any) -> None:
        from infprune.report.data_tables import show_data_score  # noqa: PLC0415

        show_data_score(result, console)

    execute("data_score", work, show, as_json=as_json, quiet=quiet, distributed=True)
