"""`infprune trace`."""

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


def trace(
    overrides: Overrides = None,
    config: ConfigOption = None,
    test: Annotated[int | None, typer.Option(help="The test sample to trace, from 0; without it, all of them.")] = None,
    top: Annotated[int | None, typer.Option(help="Examples shown at either end.")] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Trace what a fine-tuned network predicts back to the samples that it was pretrained on.

    Trains both stages, unless the run folder has them. Writes JSON, CSV, a page with images, and figures.

    Example: [bold]infprune trace -c digits-two-stage --test 3[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import trace as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.drawn import drawn  # noqa: PLC0415
        from infprune.report.trace_figures import trace_scenes  # noqa: PLC0415
        from infprune.report.trace_page import trace_html  # noqa: PLC0415
        from infprune.report.trace_tables import trace_csv  # noqa: PLC0415

        words = overridden(
            overrides, trace__test=test, trace__top=top, run__device=device, run__seed=seed, run__threads=threads
        )
        made = pipeline.run(configuration.load(config, words), progress)
        return recorded(
            made.result,
            {
                "trace.json": to_json,
                "trace.csv": lambda _: trace_csv(made),
                "trace.html": lambda r: trace_html(r, made),
                **drawn(trace_scenes(made)),
            },
        )

    def show(result: Any, console: Any) -> None:
        from infprune.report.trace_tables import show_trace  # noqa: PLC0415

        show_trace(result, console)

    execute("trace", work, show, as_json=as_json, quiet=quiet)
