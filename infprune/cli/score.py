"""`infprune score`."""

from infprune.cli.options import (
    ConfigOption,
    CriterionOption,
    DeviceOption,
    JsonOption,
    OutputOption,
    Overrides,
    PrecisionOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
    overridden,
)
from infprune.cli.running import execute
from infprune.progress import Progress


def score(
    overrides: Overrides = None,
    config: ConfigOption = None,
    criterion: CriterionOption = None,
    output: OutputOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Score every prunable channel and write a scores file that `prune --scores` reuses.

    Example: [bold]infprune score -c digits --criterion gate -o scores.safetensors[/bold]
    """

    def work(progress: Progress) -> object:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import score as pipeline  # noqa: PLC0415

        words = overridden(
            overrides,
            score__criterion=criterion,
            run__output=output,
            run__device=device,
            run__seed=seed,
            run__threads=threads,
            run__precision=precision,
        )
        return pipeline.run(configuration.load(config, words), progress)

    def show(result: object, console: object) -> None:
        from infprune.report.console import show_score  # noqa: PLC0415

        show_score(result, console)  # type: ignore[arg-type]

    execute("score", work, show, as_json=as_json, quiet=quiet, distributed=True)
