"""INF-CP's masks over time as a PNG."""

from infprune.pipeline.results import JointTrace
from infprune.report.plotting import figure_png, pyplot

PANELS = (("removed", "channels removed (%)"), ("lambda", "lambda"), ("beta", "beta"), ("binarity", "binarity of B"))


def joint_png(trace: JointTrace) -> bytes:
    """Draw rate, lambda, beta and binarity of each layer over the learning steps, and accuracy over all epochs."""
    plt = pyplot()
    figure, grid = plt.subplots(2, 3, figsize=(14, 7), layout="constrained")
    axes = list(grid.flat)
    times = [trace.learning * record["done"] for record in trace.masks]
    names = list(trace.masks[0]["layers"]) if trace.masks else []
    colours = plt.get_cmap("viridis", max(len(names), 2))
    for axis, (key, label) in zip(axes, PANELS, strict=False):
        for i, name in enumerate(names):
            values = [record["layers"][name][key] for record in trace.masks]
            shown = [100 * v for v in values] if key == "removed" else [v or None for v in values]
            axis.plot(times, shown, color=colours(i), linewidth=1, label=name)
        axis.set(xlabel="epoch", ylabel=label, xlim=(0, trace.learning))
        axis.grid(alpha=0.3)
    axes[0].plot(times, [100 * r["removed"] for r in trace.masks], color="black", linewidth=2.5, label="all channels")
    if any(row["beta"] > 0 for record in trace.masks for row in record["layers"].values()):
        axes[2].set_yscale("log")  # a run of a few steps may never have come to learn
    epochs = [e["epoch"] for e in trace.epochs]
    for key, style in (("train_accuracy", "--"), ("validation_accuracy", "-")):
        axes[4].plot(epochs, [100 * e[key] for e in trace.epochs], style, marker="o", color="black", label=key[:-9])
    axes[4].axvline(trace.learning, color="grey", linestyle=":", label="surgery")
    axes[4].set(xlabel="epoch", ylabel="accuracy (%)")
    axes[4].grid(alpha=0.3)
    axes[4].legend(fontsize=8)
    axes[5].axis("off")
    axes[5].legend(*axes[0].get_legend_handles_labels(), fontsize=6, ncols=1 + len(names) // 24, loc="center")
    figure.suptitle(f"{trace.method}: masks learned in {trace.learning} of {len(trace.epochs)} epochs")
    return figure_png(figure, dpi=110)
