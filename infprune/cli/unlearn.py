"""`infprune unlearn`."""

from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    OutputOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    file_first,
    overridden,
)
from infprune.cli.running import execute, recorded
from infprune.progress import Progress


def unlearn(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE] [KEY=VALUE]...", help="A file infprune wrote (none: the configured network)."),
    ] = None,
    config: ConfigOption = None,
    forget: Annotated[
        str | None, typer.Option(help="class:N, file:PATH (a subset file, or indices) or backdoor.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="gif, fif, pif, if or second-order.")] = None,
    selection: Annotated[
        str | None, typer.Option(help="Which filters may change: gradient-exclusive, activation-high, random, ...")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of each layer's filters that may change, in (0, 1].")
    ] = None,
    retrain: Annotated[
        bool | None, typer.Option("--retrain", help="Also train anew without the forget set, to compare with.")
    ] = None,
    output: OutputOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip applications already made in this folder.")] = False,  # noqa: FBT002 - typer's way of a flag
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Make a network forget a class, a backdoor or given samples by changing few of its weights.

    Step lengths are chosen on the validation split, results are of the test split. Writes network, tables, figure.

    Example: [bold]infprune unlearn -c digits --forget class:3 --ratio 0.1 -o forgot.safetensors[/bold]
    """
    file, given = file_first(words)

    def work(progress: Progress) -> Any:
        from infprune.pipeline import unlearn as pipeline  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline.artifact import settings_for  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.drawn import drawn  # noqa: PLC0415
        from infprune.report.unlearn_figures import lengths_scene  # noqa: PLC0415
        from infprune.report.unlearn_tables import unlearn_markdown  # noqa: PLC0415

        overrides = overridden(
            given,
            unlearn__forget=forget,
            unlearn__method=method,
            unlearn__selection=selection,
            unlearn__ratio=ratio,
            unlearn__retrain=retrain,
            run__output=output,
            run__device=device,
            run__seed=seed,
            run__threads=threads,
        )
        result = pipeline.run(file, settings_for(file, config, overrides), progress, resume=resume)
        files = {"unlearn.json": to_json, "unlearn.md": unlearn_markdown, **drawn([lengths_scene(result)])}
        return recorded(result, files)

    def show(result: Any, console: Any) -> None:
        from infprune.report.unlearn_tables import show_unlearn  # noqa: PLC0415

        show_unlearn(result, console)

    execute("unlearn", work, show, as_json=as_json, quiet=quiet)
