"""Test accuracy against the share of training samples kept: `infprune data curve` on a part of MNIST.

    INFPRUNE_DATA=PATH python scripts/data_pruning.py --samples 6000 --seeds 5

Scores the samples by each method, keeps the hardest, the easiest, those around the median or random ones, and trains a
small network on what is left: every network gets as many steps as one of all samples. Seeds: of initial weights, order
and random subsets; the scores are made once. `prototypes` embeds by a network trained on all samples (seed 0).

Writes docs/results/data-pruning.md, .json and .png after each method; an interrupted run goes on where it was.
"""

import argparse
import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infprune import config
from infprune.attribution import METHODS
from infprune.attribution.contract import Need
from infprune.files import atomic_write
from infprune.pipeline import data_curve, data_score, train
from infprune.pipeline.data_results import CurveRow, DataCurveResult
from infprune.progress import Silent

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RUNS = Path("runs/data-pruning")
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)
STRATEGIES = ("hard", "middle", "easy")
TEST = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--methods", default="el2n,forgetting,prototypes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if "INFPRUNE_DATA" not in os.environ:
        sys.exit("error: expected INFPRUNE_DATA to name the folder that holds MNIST/raw; set it")
    found: list[DataCurveResult] = []
    for method in chosen.methods.split(","):
        found.append(curve(chosen, method))
        write(chosen, found)


def curve(chosen: argparse.Namespace, method: str) -> DataCurveResult:
    """Scores of three trainings, made once, and the accuracy of what they keep."""
    common = [
        "data.factory=flipped:mnist_flipped",
        f"data.args={{samples: {chosen.samples}, share: 0, test: {TEST}}}",
        "data.validation=0.05",
        "data.batch_size=128",
        "model.factory=flipped:perceptron",
        f"train.epochs={chosen.epochs}",
        "train.lr=0.1",
        f"samples.method={method}",
    ]
    runs = RUNS / f"{chosen.samples}-{chosen.epochs}-{method}"
    scores = runs / "sample-scores.safetensors"
    if not scores.exists():
        looked_at = weights(common, method, RUNS / f"{chosen.samples}-{chosen.epochs}-trained")
        words = ["samples.seeds=3", "samples.epochs=3", f"run.dir={runs}", f"model.checkpoint={looked_at}"]
        data_score.run(config.load("digits", [*common, *words]), Silent(), resume=True)
    words = [f"samples.seeds={chosen.seeds}", f"samples.fractions={list(SHARES)}", f"run.dir={runs}-curve"]
    words += [f"samples.strategies=[{','.join(STRATEGIES)}]", "model.checkpoint=random"]
    return data_curve.run(scores, config.load("digits", [*common, *words]), Silent(), resume=True)


def weights(common: list[str], method: str, folder: Path) -> str:
    """The trained network that the method looks at, if it does."""
    if METHODS[method].need is not Need.WEIGHTS:
        return "random"
    if not (folder / "model.safetensors").exists():
        settings = config.load("digits", [*common, "model.checkpoint=random", f"run.dir={folder}"])
        train.run(settings, Silent(), resume=False)
    return str(folder / "model.safetensors")


def write(chosen: argparse.Namespace, found: list[DataCurveResult]) -> None:
    command = (
        f"INFPRUNE_DATA=PATH python scripts/data_pruning.py --samples {chosen.samples} --seeds {chosen.seeds} "
        f"--epochs {chosen.epochs} --methods {chosen.methods}"
    )
    first = found[0]
    lines = [
        "# Data pruning",
        "",
        f"`{command}`",
        "",
        f"{first.samples:,} MNIST images with scores, a perceptron with one hidden layer of 128 units, as many steps",
        f"as {chosen.epochs} epochs of all images whatever the share; {TEST:,} test images. Test accuracy in %, mean ±",
        f"sample deviation over {chosen.seeds} seeds; in brackets the difference from random at the same share, paired",
        "by seed. The scores (three trainings; prototypes: one) are made once, so the spread does not hold theirs.",
        f"All images: {_percent(first.whole)}.",
        "",
    ]
    for result in found:
        lines += [f"## {result.method}", "", *table(result), "", *verdict(result), ""]
    lines += [*overall(found), "", "![test accuracy against the share kept](data-pruning.png)"]
    atomic_write(chosen.output / "data-pruning.md", "\n".join(lines) + "\n")
    content = {"command": command, "curves": [asdict(result) for result in found]}
    for one in content["curves"]:
        del one["run_dir"], one["files"]  # type: ignore[attr-defined]
    atomic_write(chosen.output / "data-pruning.json", json.dumps(content, indent=1))
    atomic_write(chosen.output / "data-pruning.png", drawn(found))
    print("\n".join(lines), flush=True)


def by_place(result: DataCurveResult) -> dict[tuple[str, float], CurveRow]:
    return {(row.strategy, row.keep): row for row in result.rows}


def table(result: DataCurveResult) -> list[str]:
    rows, names = by_place(result), [*STRATEGIES, "random"]
    lines = ["| kept | " + " | ".join(names) + " |", "|---:|" + "---:|" * len(names)]
    for share in SHARES:
        cells = []
        for name in names:
            row = rows[name, share]
            gain = "" if row.difference is None else f" ({_signed(row.difference)})"
            cells.append(_percent(row.accuracy) + gain)
        lines.append(f"| {share:.0%} ({rows['random', share].kept:,}) | " + " | ".join(cells) + " |")
    return lines


def verdict(result: DataCurveResult) -> list[str]:
    """Where the best strategy beats random by more than the spread, where not, and where they cross."""
    rows, won, lost, better = by_place(result), [], [], []
    for share in SHARES:
        best = max(STRATEGIES, key=lambda name: rows[name, share].accuracy[0])
        better.append(best)
        (won if rows[best, share].wins else lost).append(f"{share:.0%} ({best})")
    swaps = [i for i in range(1, len(SHARES)) if better[i] != better[i - 1]]
    crossing = "; ".join(
        f"between {SHARES[i - 1]:.0%} and {SHARES[i]:.0%} `{better[i]}` overtakes `{better[i - 1]}`" for i in swaps
    )
    return [
        f"The best strategy beats random by more than the spread at: {', '.join(won) or 'no share'}.",
        f"It does not at: {', '.join(lost) or 'no share'}.",
        f"Crossover: {crossing or f'none, `{better[0]}` is the best throughout'}.",
    ]


def overall(found: list[DataCurveResult]) -> list[str]:
    """The best of all methods and strategies at each share."""
    lines = [
        "## Best of all",
        "",
        "Chosen among all rows above by the same test accuracies, so a little flattered.",
        "",
        "| kept | best | difference from random | beats random by more than the spread |",
        "|---:|---|---:|---|",
    ]
    for share in SHARES:
        rows = [(r.method, by_place(r)[name, share]) for r in found for name in STRATEGIES]
        method, best = max(rows, key=lambda pair: pair[1].accuracy[0])
        assert best.difference is not None
        told = "yes" if best.wins else "no"
        lines.append(f"| {share:.0%} | {best.strategy} by {method} | {_signed(best.difference)} | {told} |")
    return lines


def _percent(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.2f} ± {100 * value[1]:.2f}"


def _signed(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:+.2f} ± {100 * value[1]:.2f}"


def drawn(found: list[DataCurveResult]) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found), 4.2), layout="constrained", squeeze=False)
    for axis, result in zip(axes[0], found, strict=True):
        rows: Any = by_place(result)
        for name, colour in zip([*STRATEGIES, "random"], ("C3", "C2", "C0", "grey"), strict=True):
            values = [rows[name, share].accuracy for share in SHARES]
            wrong, spread = [100 * (1 - m) for m, _ in values], [100 * s for _, s in values]
            axis.errorbar(
                [100 * s for s in SHARES], wrong, spread, color=colour, marker="o", ms=4, capsize=2, label=name
            )
        axis.axhline(100 * (1 - result.whole[0]), color="black", linewidth=0.8, linestyle=":", label="all samples")
        axis.set(title=result.method, xlabel="samples kept (%)", ylabel="test error (%)", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    main()
