"""`infprune layers`."""

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


def layers(
    overrides: Overrides = None,
    config: ConfigOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way of a flag
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Show the influence of each layer as a group: what the loss would gain without it, the rest adapting.

    Beside it stands the measured loss with the layer at zero and nothing adapting. Writes a table, JSON and a bar plot.

    Example: [bold]infprune layers -c digits influence.space=gates[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import layers as pipeline  # noqa: PLC0415
        from infprune.report.as_json import to_json  # noqa: PLC0415
        from infprune.report.influence_figures import layers_png  # noqa: PLC0415
        from infprune.report.influence_tables import layers_markdown  # noqa: PLC0415

        words = overridden(overrides, run__device=device, run__seed=seed, run__threads=threads)
        result = pipeline.run(configuration.load(config, words), progress)
        return recorded(result, {"layers.json": to_json, "layers.md": layers_markdown, "layers.png": layers_png})

    def show(result: Any, console: Any) -> None:
        from infprune.report.influence_tables import show_layers  # noqa: PLC0415

        show_layers(result, console)

    execute("layers", work, show, as_json=as_json, quiet=quiet)
