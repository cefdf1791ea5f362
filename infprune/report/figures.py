"""Accuracy against rate as a PNG."""

from infprune.pipeline.report_results import ReportResult, ReportRow
from infprune.pipeline.results import STAGES
from infprune.report.plotting import figure_png, pyplot

# Okabe and Ito (2008): distinguishable with every common colour blindness; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"
LATER = tuple(STAGES)[1:]


def stages(result: ReportResult) -> list[str]:
    """The stages that were measured, in order."""
    found = [s for s in LATER if any(getattr(row, s) is not None for row in result.rows)]
    return found or ["cut"]


def by_criterion(result: ReportResult) -> dict[str, list[ReportRow]]:
    """Rows of each criterion, by rising rate."""
    names = dict.fromkeys(row.criterion for row in result.rows)
    return {n: sorted((r for r in result.rows if r.criterion == n), key=lambda r: r.rate) for n in names}


def accuracy_png(result: ReportResult) -> bytes:
    """Draw test accuracy against the share of channels removed and against MACs kept, one row of axes per stage."""
    shown = stages(result)
    figure, grid = pyplot().subplots(len(shown), 2, figsize=(11, 3.8 * len(shown)), squeeze=False, layout="constrained")
    for axes, stage in zip(grid, shown, strict=True):
        for i, (name, rows) in enumerate(by_criterion(result).items()):
            pairs = [(row, getattr(row, stage)) for row in rows if getattr(row, stage) is not None]
            style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "capsize": 3, "markersize": 5, "label": name}
            for axis, x in zip(axes, ("rate_achieved", "macs"), strict=True):
                xs = [100 * getattr(row, x) for row, _ in pairs]
                axis.errorbar(xs, [100 * m for _, (m, _) in pairs], yerr=[100 * s for _, (_, s) in pairs], **style)
        for axis, label in zip(axes, ("channels removed (%)", "MACs kept (%)"), strict=True):
            axis.axhline(100 * result.dense, color="black", linestyle=":", linewidth=1, label="dense")
            axis.set(xlabel=label, ylabel=f"test accuracy, {stage} (%)")
            axis.grid(alpha=0.3)
        axes[1].invert_xaxis()
    grid[0][0].legend(fontsize=8)
    seeds = result.rows[0].seeds
    figure.suptitle(
        f"{result.model} on {result.data}: mean of {seeds} seed{'s' * (seeds > 1)}, bars: standard deviation"
    )
    return figure_png(figure)
