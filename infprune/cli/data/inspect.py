"""`infprune data inspect`."""

from dataclasses import replace
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
    TableOption,
    ThreadsOption,
    overridden,
)
from infprune.cli.running import execute
from infprune.progress import Progress


def inspect(
    overrides: Overrides = None,
    test: Annotated[int | None, typer.Option("--test", help="Explain the prediction of this test sample.")] = None,
    label: Annotated[int | None, typer.Option("--class", help="Explain the predictions of a whole class.")] = None,
    scores: Annotated[
        list[Path] | None, typer.Option("--scores", metavar="FILE", help="Sample scores to show; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="Samples in each ranking.")] = 12,
    table: TableOption = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Show training samples: those that help or harm a prediction, suspected mislabels, the most memorised.

    Writes ranked tables as JSON and CSV (and Parquet, if asked for), and a page with the samples themselves.

    Example: [bold]infprune data inspect -c digits --test 3[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.files import atomic_writes  # noqa: PLC0415
        from infprune.pipeline import data_inspect as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.inspect_page import inspection_html  # noqa: PLC0415
        from infprune.report.table_files import as_csv, as_parquet, check_format, inspection_columns  # noqa: PLC0415

        check_format(table)
        words = overridden(overrides, run__device=device, run__seed=seed, run__threads=threads)
        asked = pipeline.Asked(test, label, tuple(scores or ()), top)
        found = pipeline.run(configuration.load(config, words), asked, progress)
        folder = Path(found.result.run_dir)
        names = ["data-inspect.json", "data-inspect.csv", "data-inspect.html"]
        names += ["data-inspect.parquet"] if table == "parquet" else []
        found = replace(found, result=replace(found.result, files=[str(folder / name) for name in names]))
        columns = inspection_columns(found.result)
        contents: list[Any] = [to_json(found.result), as_csv(columns), inspection_html(found)]
        contents += [as_parquet(columns)] if table == "parquet" else []
        atomic_writes(dict(zip(found.result.files, contents, strict=True)))
        return found.result

    def show(result: Any, console: Any) -> None:
        from infprune.report.inspect_tables import show_inspection  # noqa: PLC0415

        show_inspection(result, console)

    execute("data_inspect", work, show, as_json=as_json, quiet=quiet, distributed=True)
