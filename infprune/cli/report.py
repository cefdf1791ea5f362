"""`infprune report`."""

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


def report(
    overrides: Overrides = None,
    config: ConfigOption = None,
    rates: Annotated[str, typer.Option(help="Rates to measure, comma-separated.")] = "0.2,0.5,0.8",
    criteria: Annotated[str, typer.Option(help="Criteria to compare.")] = "influence,taylor,magnitude,random",
    seeds: Annotated[int, typer.Option(help="Calibration draws per point.", min=1)] = 3,
    finetune: Annotated[bool | None, typer.Option("--finetune", help="Also fine-tune at every point.")] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip points already measured in this folder.")] = False,  # noqa: FBT002
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Accuracy against rate for several criteria: table, plot, HTML, JSON, Markdown and PNG.

    Example: [bold]infprune report --rates 0.3,0.5,0.7 --criteria influence,gate,random --seeds 3[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import report as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.drawn import drawn  # noqa: PLC0415
        from infprune.report.figures import accuracy_png  # noqa: PLC0415
        from infprune.report.markdown import report_markdown  # noqa: PLC0415
        from infprune.report.report_figures import report_scenes  # noqa: PLC0415
        from infprune.report.report_page import report_html  # noqa: PLC0415

        words = overridden(
            overrides, prune__finetune=finetune, run__device=device, run__seed=seed, run__threads=threads
        )
        grid = pipeline.grid(rates, criteria, seeds)
        result = pipeline.run(configuration.load(config, words), grid, progress, resume=resume)
        files = {"report.json": to_json, "report.md": report_markdown, "report.html": report_html}
        return recorded(result, files | {"report.png": accuracy_png} | drawn(report_scenes(result)))

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_report  # noqa: PLC0415

        show_report(result, console)

    execute("report", work, show, as_json=as_json, quiet=quiet, distributed=True)
