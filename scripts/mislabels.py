"""How many flipped labels each method finds when its largest scores are inspected first.

    INFPRUNE_DATA=PATH python scripts/mislabels.py --samples 10000 --seeds 3

A tenth of the labels of MNIST's first training samples is replaced by one of the other nine; a small network with two
convolutions is trained on them, and every method of `infprune data score` ranks the samples (the validation part, a
twentieth, is left out). Two more rankings come from what is known besides scores: `memorisation: loss without`
is the mean loss of the networks that did not see the sample, `training loss` that of the network trained on all.
Seeds: of flips, initial weights and training. The network, its regularisation and the epochs were chosen by the loss at
noisy labels held out (flips of seed 100), which needs no clean label.

Writes docs/results/mislabels.md, .json and .png after each method; an interrupted run goes on where it was.
"""

import argparse
import io
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from flipped import flips
from torch import Tensor
from torch.nn import functional as F

from infprune import config
from infprune.attribution import METHODS
from infprune.attribution.scores_file import read_sample_scores
from infprune.files import atomic_write
from infprune.pipeline import data_score, train
from infprune.pipeline.session import open_model, open_session
from infprune.pipeline.store import Store
from infprune.progress import Silent

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SHARES = (0.05, 0.1, 0.2, 0.3)
POINTS = 40  # of each curve
TRAININGS = {"out-of-fold": 1, "forgetting": 1}  # samples.seeds; others: 3
LOSS, WITHOUT = "training loss", "memorisation: loss without"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10000)
    parser.add_argument("--share", type=float, default=0.1, help="of labels that are flipped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--stored", action="store_true", help="write what earlier runs have found; train nothing")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if "INFPRUNE_DATA" not in os.environ:
        sys.exit("error: expected INFPRUNE_DATA to name the folder that holds MNIST/raw; set it")
    store = Store(Path("runs/mislabels.json"), f"{chosen.samples} {chosen.share} {chosen.epochs} 2", resume=True)
    found: dict[str, list[Any]] = {}
    for method in chosen.methods.split(","):
        for seed in range(chosen.seeds):
            key = f"{seed}/{method}"
            if store.get(key) is None and not chosen.stored:
                store.put(key, curves(chosen, method, seed))
                print(key, {n: round(at(c, 0.1), 3) for n, c in store.get(key).items()}, flush=True)
            for name, curve in (store.get(key) or {}).items():
                found.setdefault(name, []).append(curve)
        if found:
            write(chosen, found)


def settings(chosen: argparse.Namespace, seed: int, *words: str) -> config.Config:
    arguments = f"{{samples: {chosen.samples}, share: {chosen.share}, seed: {seed}}}"
    common = [
        "data.factory=flipped:mnist_flipped",
        f"data.args={arguments}",
        "data.validation=0.05",
        "data.batch_size=64",
        "data.calibration=1000",
        "model.factory=flipped:network",
        f"train.epochs={chosen.epochs}",
        "train.lr=0.05",
        f"run.seed={seed}",
    ]
    return config.load("digits", [*common, *words])


def curves(chosen: argparse.Namespace, method: str, seed: int) -> dict[str, list[float]]:
    """Share of the flips found, by the share inspected, from `POINTS` places; of a method and what it tells besides."""
    weights = f"runs/mislabels/{seed}-train/model.safetensors"
    if not Path(weights).exists():
        words = ["model.checkpoint=random", f"run.dir=runs/mislabels/{seed}-train"]
        train.run(settings(chosen, seed, *words), Silent(), resume=False)
    words = [f"model.checkpoint={weights}", f"samples.method={method}", f"run.dir=runs/mislabels/{seed}-{method}"]
    words += ["influence.curvature=ekfac", "samples.epochs=2", "samples.subsets=6"]
    words += [f"samples.seeds={TRAININGS.get(method, 3)}"]
    chosen_settings = settings(chosen, seed, *words)
    data_score.run(chosen_settings, Silent(), resume=True)
    scores, _ = read_sample_scores(Path(f"runs/mislabels/{seed}-{method}/sample-scores.safetensors"))
    wrong = torch.isin(scores.indices, flips(chosen.samples, chosen.share, seed))
    total = -scores.total if method == "influence" else scores.total  # harmful first
    told = {method: curve(total, wrong)}
    if method == "memorisation":
        told[WITHOUT] = curve(scores.details["loss_without"], wrong)
    if method == "random":
        told[LOSS] = curve(training_loss(chosen_settings), wrong)
    return told


def training_loss(chosen: config.Config) -> Tensor:
    session = open_session(chosen, "mislabels")
    module = open_model(session)
    with torch.no_grad():
        found = [F.cross_entropy(module(x), y, reduction="none") for x, y in session.batches(session.splits.train)]
    return torch.cat(found).double()


def curve(scores: Tensor, wrong: Tensor) -> list[float]:
    """Share of the wrong among the first 1/POINTS, 2/POINTS, ... of the samples."""
    hits = wrong[scores.argsort(descending=True, stable=True)].double().cumsum(0)
    places = [round(len(wrong) * (i + 1) / POINTS) - 1 for i in range(POINTS)]
    return [float(hits[i] / hits[-1]) for i in places]


def at(found: list[float], share: float) -> float:
    return found[round(share * POINTS) - 1]


def write(chosen: argparse.Namespace, found: dict[str, list[Any]]) -> None:
    order = sorted(found, key=lambda name: -statistics.mean(at(c, 0.1) for c in found[name]))
    command = (
        f"INFPRUNE_DATA=PATH python scripts/mislabels.py --samples {chosen.samples} --share {chosen.share:g} "
        f"--seeds {chosen.seeds} --epochs {chosen.epochs} --methods {chosen.methods}"
    )
    best = found[order[0]]
    goals = [(share, goal, statistics.mean(at(c, share) for c in best)) for share, goal in ((0.1, 0.95), (0.2, 0.99))]
    verdict = "; ".join(
        f"{value:.1%} in the first {share:.0%} (asked for: {goal:.0%}, {'met' if value >= goal else 'missed'})"
        for share, goal, value in goals
    )
    uneven = len({len(curves) for curves in found.values()}) > 1
    lines = [
        "# Flipped labels found",
        "",
        f"`{command}`",
        "",
        f"{chosen.samples:,} MNIST images, {chosen.share:.0%} of the labels flipped, a network with three convolutions",
        f"(`scripts/flipped.py`), {chosen.epochs} epochs, chosen by the loss at noisy labels held out. Share of the",
        "flips among the first samples inspected, in %: mean over the seeds (sample standard deviation). Best method,",
        f"{order[0]}: {verdict}.",
        f"With {chosen.share:.0%} flipped, the first 10 % can hold all flips only if every one of them is a flip.",
        "`influence` is on the loss of validation samples, of whose labels as many are flipped; harmful ones first.",
        *(["The run was stopped before every method had every seed."] if uneven else []),
        "",
        "| method | seeds | " + " | ".join(f"first {share:.0%}" for share in SHARES) + " |",
        "|---|---:|" + "---:|" * len(SHARES),
    ]
    for name in order:
        cells = []
        for share in SHARES:
            values = [100 * at(c, share) for c in found[name]]
            spread = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {name} | {len(found[name])} | " + " | ".join(cells) + " |")
    lines += ["", "![share of the flips found by the share inspected](mislabels.png)"]
    atomic_write(chosen.output / "mislabels.md", "\n".join(lines) + "\n")
    atomic_write(chosen.output / "mislabels.json", json.dumps({"command": command, "curves": found}, indent=1))
    atomic_write(chosen.output / "mislabels.png", drawn(found, order))
    print("\n".join(lines))


def drawn(found: dict[str, list[Any]], order: list[str]) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    colours = plt.get_cmap("tab10")
    xs = [100 * (i + 1) / POINTS for i in range(POINTS)]
    for i, name in enumerate(order):
        mean = [100 * statistics.mean(c[j] for c in found[name]) for j in range(POINTS)]
        axis.plot([0, *xs], [0, *mean], color=colours(i % 10), linestyle="-" if i < 10 else "--", label=name)
    axis.axvline(10, color="grey", linewidth=0.8, linestyle=":")
    axis.set(xlabel="samples inspected (%)", ylabel="flips found (%)", xlim=(0, 60), ylim=(0, 101))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, ncols=2, loc="center", bbox_to_anchor=(0.68, 0.75))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    main()
