"""`infprune compare`."""

import shlex
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    JunitOption,
    Overrides,
    QuietOption,
    SeedOption,
    ThreadsOption,
    check_junit,
    overridden,
)
from infprune.cli.running import enforce, execute
from infprune.errors import ConfigError
from infprune.progress import Progress

Source = Annotated[str, typer.Argument(help="A file infprune wrote, or the word dense.")]


def compare(
    a: Source,
    b: Source,
    overrides: Overrides = None,
    config: ConfigOption = None,
    max_drop: Annotated[float | None, typer.Option(help="Exit 5 if B's test accuracy is lower by more.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Exit 5 if fewer predictions are the same, as a share.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A Markdown file (.md) to write.")] = None,
    junit: JunitOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Hold two networks against each other on the same test data: accuracy, equal predictions, costs, time.

    Example: [bold]infprune compare dense pruned.safetensors --max-drop 0.01 --min-agreement 0.98[/bold]

    Without -c the data and settings stored in the first file are taken; dense is then what it was cut from.
    """

    def work(progress: Progress) -> Any:
        from infprune.files import atomic_write  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import compare as pipeline  # noqa: PLC0415
        from infprune.report.junit import compare_junit  # noqa: PLC0415
        from infprune.report.markdown import compare_markdown  # noqa: PLC0415

        if output is not None and not output.endswith(".md"):
            raise ConfigError(f"--output: expected a name that ends in .md, got {output}")
        check_junit(junit, [a, b, output])
        words = overridden(overrides, run__device=device, run__seed=seed, run__threads=threads)
        asked = pipeline.Asked(a, b, max_drop, min_agreement, configured=config is not None)
        result = pipeline.run(asked, pipeline.settings(asked, config, words), progress)
        if output is not None:
            gates = {"-c": config, "--max-drop": max_drop, "--min-agreement": min_agreement}
            options = [word for name, value in gates.items() if value is not None for word in (name, str(value))]
            atomic_write(output, compare_markdown(result, shlex.join(["infprune", "compare", a, b, *options, *words])))
        if junit is not None:
            atomic_write(junit, compare_junit(result))
        return result

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_compare  # noqa: PLC0415

        show_compare(result, console)

    result = execute("compare", work, show, as_json=as_json, quiet=quiet, junit=junit)
    enforce(result.missed, as_json=as_json)
