"""Results as Markdown, for README, job pages and docs/results."""

from infprune.pipeline.results import PruneResult, ReportResult
from infprune.report.figures import by_criterion, stages


def prune_markdown(result: PruneResult) -> str:
    """A table of the quantities before and after."""
    lines = [
        f"### {result.model} on {result.data}: {result.criterion}, {result.rate_achieved:.1%} of the channels removed",
        "",
        "| | dense | pruned | kept |",
        "|---|---:|---:|---:|",
    ]
    for name in ("channels", "params", "macs", "bytes"):
        change = getattr(result, name)
        lines.append(f"| {name} | {change.before:,.0f} | {change.after:,.0f} | {change.after / change.before:.1%} |")
    lat = result.latency_ms
    lines.append(f"| latency (ms) | {lat.before:.2f} | {lat.after:.2f} | {lat.after / lat.before:.1%} |")
    a = result.accuracy
    stages_run = [("cut", a.cut), ("compensated", a.compensated), ("fine-tuned", a.finetuned)]
    lines += ["", f"Test accuracy: dense {a.dense:.4f}"]
    lines[-1] += "".join(f", {name} {value:.4f}" for name, value in stages_run if value is not None) + "."
    lines.append(f"Proof: largest relative error {result.verified.max_relative_error:.1e}.")
    return "\n".join(lines) + "\n"


def report_markdown(result: ReportResult) -> str:
    """One table per stage: rows are criteria, columns are rates, cells are mean (standard deviation)."""
    rates = sorted({row.rate for row in result.rows})
    seeds = result.rows[0].seeds
    lines = [
        f"# {result.model} on {result.data}",
        "",
        f"Test accuracy in %, {_averaged(seeds)}. Dense: {100 * result.dense:.2f}.",
        f"Scope: {result.scope}. Compensation: {result.compensate}. Calibration: {result.calibration} samples.",
    ]
    for stage in stages(result):
        lines += ["", f"## {stage}", "", "| criterion | " + " | ".join(f"{100 * r:g} %" for r in rates) + " |"]
        lines.append("|---|" + "---:|" * len(rates))
        for name, rows in by_criterion(result).items():
            lines.append(f"| {name} | " + " | ".join(_cell(getattr(row, stage), seeds) for row in rows) + " |")
    lines += ["", "## MACs kept (%)", "", "| criterion | " + " | ".join(f"{100 * r:g} %" for r in rates) + " |"]
    lines.append("|---|" + "---:|" * len(rates))
    for name, rows in by_criterion(result).items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * row.macs:.1f}" for row in rows) + " |")
    return "\n".join(lines) + "\n"


def _averaged(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds (standard deviation)"


def _cell(value: tuple[float, float] | None, seeds: int) -> str:
    if value is None:
        return "-"
    return f"{100 * value[0]:.2f} ({100 * value[1]:.2f})" if seeds > 1 else f"{100 * value[0]:.2f}"
