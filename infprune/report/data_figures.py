"""Figures of `infprune data`, as PNG."""

from infprune.pipeline.data_results import CurveRow, DataCurveResult, DataScoreResult
from infprune.report.figures import COLOURS, MARKERS
from infprune.report.plotting import figure_png, pyplot


def histogram_png(result: DataScoreResult) -> bytes:
    """How the scores are distributed, and each class's quartiles."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    edges, counts = result.histogram.edges, result.histogram.counts
    left.stairs(counts, edges, fill=True, color=COLOURS[0])
    label = f"{result.method} ({result.unit})"
    left.set(xlabel=label, ylabel="samples", yscale="log" if max(counts) > 100 * max(1, min(counts)) else "linear")
    for i, row in enumerate(result.classes):
        low, first, middle, third, high = row.quantiles
        right.plot([low, high], [i, i], color=COLOURS[0], linewidth=1)
        right.plot([first, third], [i, i], color=COLOURS[0], linewidth=5, solid_capstyle="butt")
        right.plot([middle], [i], color=COLOURS[1], marker="o", markersize=4)
    right.set_yticks(range(len(result.classes)), [str(row.label) for row in result.classes])
    right.set(xlabel=f"{label}: range, quartiles, median", ylabel="class")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(f"{result.model} on {result.data}: {result.samples:,} training samples")
    return figure_png(figure)


def by_strategy(result: DataCurveResult) -> dict[str, list[CurveRow]]:
    """Rows of each strategy, by rising share."""
    names = dict.fromkeys(row.strategy for row in result.rows)
    return {n: sorted((r for r in result.rows if r.strategy == n), key=lambda r: r.keep) for n in names}


def curve_png(result: DataCurveResult) -> bytes:
    """Test accuracy against the share kept, and its difference from random at the same share."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for i, (name, rows) in enumerate(by_strategy(result).items()):
        style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "capsize": 3, "markersize": 5, "label": name}
        shares = [100 * row.keep for row in rows]
        means, spreads = zip(*(row.accuracy for row in rows), strict=True)
        left.errorbar(shares, [100 * m for m in means], yerr=[100 * s for s in spreads], **style)
        pairs = [row.difference for row in rows if row.difference is not None]
        if pairs:
            right.errorbar(shares, [100 * m for m, _ in pairs], yerr=[100 * s for _, s in pairs], **style)
    left.axhline(100 * result.whole[0], color="black", linestyle=":", linewidth=1, label="all samples")
    right.axhline(0, color="black", linestyle=":", linewidth=1)
    left.set(xlabel="training samples kept (%)", ylabel="test accuracy (%)")
    right.set(xlabel="training samples kept (%)", ylabel="difference from random, paired (points)")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    seeds = result.rows[0].seeds
    figure.suptitle(
        f"{result.model} on {result.data}, scores {result.method}: mean of {seeds} seed{'s' * (seeds > 1)}, "
        "bars: standard deviation"
    )
    return figure_png(figure)
