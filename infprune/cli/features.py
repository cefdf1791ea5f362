"""`infprune features`."""

from typing import Any

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


def features(
    overrides: Overrides = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Rank the input features by the influence of the weights that read them, or of gates on the inputs.

    Writes JSON, a CSV file, and a plot: bars for tabular data, a heat map for images.

    Example: [bold]infprune features -c breast-cancer features.top=10[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import features as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.influence_figures import features_png  # noqa: PLC0415
        from infprune.report.influence_tables import features_csv  # noqa: PLC0415

        words = overridden(overrides, run__device=device, run__seed=seed, run__threads=threads)
        result = pipeline.run(configuration.load(config, words), progress)
        return recorded(
            result,
            {
                "features.json": to_json,
                "features.csv": features_csv,
                "features.png": lambda r: features_png([r], [f"{r.model} on {r.data}"]),
            },
        )

    def show(result: Any, console: Any) -> None:
        from infprune.report.influence_tables import show_features  # noqa: PLC0415

        show_features(result, console)

    execute("features", work, show, as_json=as_json, quiet=quiet)
