"""`infprune prune`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from infprune.cli.options import (
    ConfigOption,
    CriterionOption,
    DeviceOption,
    JsonOption,
    JunitOption,
    MethodOption,
    OutputOption,
    Overrides,
    PrecisionOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    ThreadsOption,
    check_junit,
    overridden,
)
from infprune.cli.running import enforce, execute, recorded
from infprune.errors import ConfigError
from infprune.progress import Progress


def prune(
    overrides: Overrides = None,
    config: ConfigOption = None,
    rate: Annotated[float | None, typer.Option(help="Share of the prunable channels to remove, in [0, 1).")] = None,
    macs: Annotated[float | None, typer.Option(help="MACs to keep: a share up to 1, or a number.")] = None,
    params: Annotated[float | None, typer.Option(help="Parameters to keep: a share up to 1, or a number.")] = None,
    size: Annotated[float | None, typer.Option("--bytes", help="Bytes to keep: a share up to 1, or a number.")] = None,
    latency: Annotated[
        float | None, typer.Option(help="Time per sample to keep: a share up to 1, or milliseconds.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="calibrated (measured), global (bare scores) or layer (the same share).")
    ] = None,
    criterion: CriterionOption = None,
    scores: Annotated[str | None, typer.Option(help="A scores file to reuse.")] = None,
    compensate: Annotated[str | None, typer.Option(help="none, ls or ls+bn.")] = None,
    distill: Annotated[
        int | None, typer.Option(help="Passes over the calibration samples that follow the dense logits; 0: none.")
    ] = None,
    finetune: Annotated[bool | None, typer.Option("--finetune", help="Fine-tune after the cut.")] = None,
    method: MethodOption = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Exit 5 below this test accuracy.")] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Largest drop of accuracy; without a budget it decides the rate. Exit 5 beyond it."),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(help="Exit 5 above this time per sample: a share of the dense one up to 1, or milliseconds."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be cut; write nothing.")] = False,  # noqa: FBT002 - typer's way of a flag
    output: OutputOption = None,
    junit: JunitOption = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    resume: ResumeOption = False,  # noqa: FBT002
    as_json: JsonOption = False,  # noqa: FBT002
    quiet: QuietOption = False,  # noqa: FBT002
) -> None:
    """Score, cut, prove and correct a network; write the smaller one.

    Example: [bold]infprune prune --rate 0.5 --max-drop 0.01 -o pruned.safetensors[/bold]

    Learned while fine-tuning: [bold]infprune prune --method inf-cp --rate 0.5 finetune.epochs=12[/bold]
    """

    def work(progress: Progress) -> Any:
        from infprune import config as configuration  # noqa: PLC0415 - torch loads when a command runs
        from infprune.pipeline import plan  # noqa: PLC0415
        from infprune.pipeline import prune as pipeline  # noqa: PLC0415

        words = overridden(
            overrides,
            prune__rate=rate,
            prune__macs=macs,
            prune__params=params,
            prune__bytes=size,
            prune__latency=latency,
            prune__scope=scope,
            prune__compensate=compensate,
            prune__distill=distill,
            prune__finetune=finetune,
            prune__min_accuracy=min_accuracy,
            prune__max_drop=max_drop,
            prune__max_latency=max_latency,
            finetune__method=method,
            score__criterion=criterion,
            score__file=scores,
            run__output=output,
            run__device=device,
            run__seed=seed,
            run__threads=threads,
            run__precision=precision,
        )
        settings = configuration.load(config, words)
        if dry_run and junit is not None:
            raise ConfigError("--dry-run writes no file, but --junit asks for one; drop one of the two")
        check_junit(junit, [settings.run.output, scores, settings.model.checkpoint])
        if dry_run:
            return plan.run(settings, progress)
        return _written(pipeline.run(settings, progress, resume=resume), junit)

    def show(result: Any, console: Any) -> None:
        from infprune.report.console import show_plan, show_prune  # noqa: PLC0415

        (show_plan if dry_run else show_prune)(result, console)

    kept = None if dry_run else junit
    result = execute("prune", work, show, as_json=as_json, quiet=quiet, junit=kept, distributed=True)
    enforce(result.missed, as_json=as_json)


def _written(result: Any, junit: Path | None) -> Any:
    """Write what a finished run tells into its folder, and the test report."""
    from infprune.files import atomic_write  # noqa: PLC0415
    from infprune.report.as_json import to_json  # noqa: PLC0415
    from infprune.report.drawn import drawn  # noqa: PLC0415
    from infprune.report.joint_figure import joint_png  # noqa: PLC0415
    from infprune.report.junit import prune_junit  # noqa: PLC0415
    from infprune.report.markdown import prune_markdown  # noqa: PLC0415
    from infprune.report.prune_figures import prune_scenes  # noqa: PLC0415
    from infprune.report.prune_page import prune_html  # noqa: PLC0415

    files: dict[str, Callable[[Any], str | bytes]]
    files = {"result.json": to_json, "result.md": prune_markdown, "result.html": prune_html}
    if result.joint is not None and result.joint.masks:
        files["joint.png"] = lambda result: joint_png(result.joint)
    result = recorded(result, files | drawn(prune_scenes(result)))
    if junit is not None:
        atomic_write(junit, prune_junit(result))
    return result
