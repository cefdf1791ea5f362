"""Figures of validate, layers and features, as PNG."""

from collections.abc import Sequence
from typing import Any

from infprune.pipeline.influence_results import FeaturesResult, FormRow, LayersResult, Panel
from infprune.report.figures import COLOURS
from infprune.report.plotting import figure_png, pyplot

PLOTTED = 4000  # points per panel and form at most: more only make the file large
NAMES = {"block": "exact block", "paper": "as printed", "bracket": "bracket, upper end"}


def scatter_png(panels: Sequence[Panel], rows: Sequence[FormRow]) -> bytes:
    """Predicted against actual change of the parameters that were kept, a panel per group size (MU figure 1)."""
    return _panels(panels, rows, _shifts, "change of kept parameters")


def loss_png(panels: Sequence[Panel], rows: Sequence[FormRow]) -> bytes:
    """Predicted against actual change of the regularised training loss, a panel per group size."""
    return _panels(panels, rows, _changes, "change of the loss (nats)")


def layers_png(result: LayersResult) -> bytes:
    """A bar per layer: its influence, and the measured change with nothing adapting."""
    plt = pyplot()
    rows = [r for r in result.rows if r.influence is not None]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.2 + 0.34 * len(rows)), layout="constrained", sharey=True)
    places = list(range(len(rows)))[::-1]
    left.barh(places, [r.influence for r in rows], color=COLOURS[0], label="influence")
    left.barh(places, [r.of_damping for r in rows], height=0.3, color=COLOURS[4], label="made by ridge and damping")
    right.barh(places, [r.frozen_loss or 0.0 for r in rows], color=COLOURS[2])
    left.set_yticks(places, [r.name for r in rows])
    c = result.curvature
    left.set(xlabel=f"influence (nats), {c.space}, {c.curvature}, ridge {c.ridge:.2g}, damping {c.damping:.2g}")
    right.set(xlabel="measured loss change without the layer,\nnothing adapting (nats)")
    left.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3, axis="x")
    figure.suptitle(f"{result.model} on {result.data}: layers as groups")
    return figure_png(figure)


def features_png(results: Sequence[FeaturesResult], titles: Sequence[str]) -> bytes:
    """A map of the inputs' influence per result (MU figure 2: lighter is more important), or bars of the largest."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 4.8), squeeze=False, layout="constrained")
    for axis, result, title in zip(axes[0], results, titles, strict=True):
        values = [row.influence if row.influence is not None else float("nan") for row in result.rows]
        if result.shape is not None:
            height, width = result.shape
            grid = [values[i * width : (i + 1) * width] for i in range(height)]
            shown = axis.imshow(grid, cmap="gray")
            figure.colorbar(shown, ax=axis, shrink=0.8, label="influence (nats)")
            axis.set(xticks=[], yticks=[])
        else:
            first = sorted(result.rows, key=lambda r: r.rank)[: result.top]
            places = list(range(len(first)))[::-1]
            axis.barh(places, [r.influence or 0.0 for r in first], color=COLOURS[0])
            axis.set_yticks(places, [r.name for r in first])
            axis.set(xlabel="influence (nats)")
            axis.grid(alpha=0.3, axis="x")
        axis.set_title(title)
    return figure_png(figure)


def _panels(panels: Sequence[Panel], rows: Sequence[FormRow], points: Any, label: str) -> bytes:
    plt = pyplot()
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure, grid = plt.subplots(down, across, figsize=(4.2 * across, 3.9 * down), squeeze=False, layout="constrained")
    for axis in grid.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(grid.flat, panels, strict=False):
        forms: list[str] = [form for form in ("paper", "block") if form in panel.shift] or list(panel.shift)
        limits = []
        for form in forms:
            actual, predicted = points(panel, form)
            step = max(1, len(actual) // PLOTTED)
            style = {"color": COLOURS[0 if form == "block" else 1], "alpha": 0.45, "linewidths": 0}
            row = next(r for r in rows if r.form == form and r.share == panel.share)
            r = (row.kept if points is _shifts else row.loss).r
            text = f"{NAMES[form]}, r = {r:.3f}" if r is not None else NAMES[form]
            axis.scatter(actual[::step], predicted[::step], s=7, label=text, **style)
            if len(actual) and (form == "block" or len(forms) == 1):
                limits = [float(min(actual.min(), predicted.min())), float(max(actual.max(), predicted.max()))]
        if limits and limits[0] < limits[1]:
            margin = 0.05 * (limits[1] - limits[0])
            limits = [limits[0] - margin, limits[1] + margin]
            axis.plot(limits, limits, color="black", linewidth=0.8, linestyle=":")
            axis.set(xlim=limits, ylim=limits)  # the printed form's quotients may lie far outside
        axis.set_title("single parameter" if panel.share == 0 else f"{panel.share:.0%} of the parameters")
        axis.legend(fontsize=7, loc="upper left")
        axis.grid(alpha=0.3)
    figure.supxlabel(f"actual {label}")
    figure.supylabel(f"predicted {label}")
    return figure_png(figure)


def _shifts(panel: Panel, form: str) -> tuple[Any, Any]:
    kept = ~panel.removed & panel.change[form].isfinite()[:, None]
    return panel.actual_shift[kept].numpy(), panel.shift[form][kept].numpy()


def _changes(panel: Panel, form: str) -> tuple[Any, Any]:
    good = panel.change[form].isfinite()
    return panel.actual_change[good].numpy(), panel.change[form][good].numpy()
