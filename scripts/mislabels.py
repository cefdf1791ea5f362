"""How many flipped labels each method finds when its largest scores are inspected first.

    INFPRUNE_DATA=PATH python scripts/mislabels.py --samples 10000 --seeds 3

A tenth of the labels of MNIST's first training samples is replaced by one of the other nine; a small network with two
convolutions is trained on them, and every method of `infprune data score` ranks the samples (the validation part, a
twentieth, is left out). More rankings come from what is known besides scores: `memorisation: loss without`
is the mean loss of the networks that did not see the sample, `training loss` that of the network trained on all,
`influence, clean queries` the influence on the test samples, whose labels are right (`scripts/queries_of_flips.py`).
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

import queries_of_flips
import torch
from flipped import flips
from queries_of_flips import QUERIES
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
LOSS, WITHOUT, CLEAN = "training loss", "memorisation: loss without", "influence, clean queries"
NETWORK, LINEAR = "network, EKFAC", "linear, exact"
SMALL, RIDGE = 1000, 1e-3  # samples and penalty of the linear classifier


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
            write(chosen, found, asked(chosen, store, found))


def asked(chosen: argparse.Namespace, store: Store, found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What influence finds by the queries it is asked about, per model and seed, where `influence` was run."""
    told: dict[str, list[Any]] = {}
    for seed in range(len(found.get("influence", []))):
        for model in (NETWORK, LINEAR):
            key = f"{seed}/queries: {model}"
            if store.get(key) is None and not chosen.stored:
                store.put(key, by_queries(chosen, model, seed))
            if store.get(key) is not None:
                told.setdefault(model, []).append(store.get(key))
    found[CLEAN] = [run["queries"][QUERIES[3]]["curve"] for run in told.get(NETWORK, [])]
    if not found[CLEAN]:
        del found[CLEAN]
    return told


def by_queries(chosen: argparse.Namespace, model: str, seed: int) -> dict[str, Any]:
    if model == NETWORK:
        words = [f"model.checkpoint={trained(chosen, seed)}", "influence.curvature=ekfac"]
        run = queries_of_flips.measured(settings(chosen, seed, *words))
    else:
        small = argparse.Namespace(**{**vars(chosen), "samples": SMALL})
        words = ["model.factory=flipped:linear", "model.checkpoint=random", "data.validation=0.3"]
        words += ["influence.fit=true", f"influence.ridge={RIDGE}", "influence.curvature=hessian"]
        words += ["influence.solver=cholesky"]
        run = queries_of_flips.measured(settings(small, seed, *words), retrained=True)
    wrong = torch.tensor(run.pop("wrong"))
    for queries in run["queries"].values():
        queries["curve"] = curve(-torch.tensor(queries.pop("scores"), dtype=torch.float64), wrong)
    return run


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


def trained(chosen: argparse.Namespace, seed: int) -> str:
    """The file of the network's weights."""
    weights = f"runs/mislabels/{seed}-train/model.safetensors"
    if not Path(weights).exists():
        words = ["model.checkpoint=random", f"run.dir=runs/mislabels/{seed}-train"]
        train.run(settings(chosen, seed, *words), Silent(), resume=False)
    return weights


def curves(chosen: argparse.Namespace, method: str, seed: int) -> dict[str, list[float]]:
    """Share of the flips found, by the share inspected, from `POINTS` places; of a method and what it tells besides."""
    words = [
        f"model.checkpoint={trained(chosen, seed)}",
        f"samples.method={method}",
        f"run.dir=runs/mislabels/{seed}-{method}",
    ]
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


def write(chosen: argparse.Namespace, found: dict[str, list[Any]], told: dict[str, list[Any]]) -> None:
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
        "`influence` is on the loss of validation samples, of whose labels as many are flipped; with `clean queries`",
        "on that of 500 test samples, whose labels are right; harmful ones first.",
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
    lines += ["", "![share of the flips found by the share inspected](mislabels.png)", *explained(told)]
    atomic_write(chosen.output / "mislabels.md", "\n".join(lines) + "\n")
    atomic_write(
        chosen.output / "mislabels.json", json.dumps({"command": command, "curves": found, "queries": told}, indent=1)
    )
    atomic_write(chosen.output / "mislabels.png", drawn(found, order))
    print("\n".join(lines))


def explained(told: dict[str, list[Any]]) -> list[str]:
    """Why the queries' labels matter, as measured."""
    if not told:
        return []
    lines = [
        "",
        "## Influence needs queries with right labels",
        "",
        "At a minimum of the loss with flips, a flip is a sample like any other: the mean gradient of new samples with",
        "as many flips is only the gap between training and new samples, since the gradients of their right and of",
        "their flipped labels pull against each other. What a flip costs shows in the loss of right labels alone.",
        "`samples.queries` must therefore name samples whose labels were checked.",
        "",
        "Mean influence (nats x samples, harmful samples negative), flips found in the first 10 % (harmful first; %,",
        "standard deviation over seeds), and the correlation of predicted with true changes of the queries' loss when",
        f"one of {queries_of_flips.REMOVED} samples (half of them flips) is left out and the model brought to its new",
        f"minimum. `{LINEAR}`: a linear classifier of 49 inputs at its minimum, {SMALL:,} images (30 % of them held",
        f"out), exact Hessian, penalty {RIDGE:g}.",
        "",
        "| model | seeds | queries | loss | gradient | influence of flips | of others | flips found | retraining |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for model, runs in told.items():
        for name in QUERIES:
            rows = [run["queries"][name] for run in runs]
            hits = [100 * at(row["curve"], 0.1) for row in rows]
            spread = f" ({statistics.stdev(hits):.1f})" if len(hits) > 1 else ""
            loss, g, flip, rest = (statistics.mean(r[k] for r in rows) for k in ("loss", "gradient", "flips", "rest"))
            true = f"{min(run['retraining'][name] for run in runs):.4f} or more" if "retraining" in runs[0] else "-"
            lines.append(
                f"| {model} | {len(runs)} | {name} | {loss:.2f} | {g:.3f} | {flip:.2f} | {rest:.2f} "
                f"| {statistics.mean(hits):.1f}{spread} | {true} |"
            )
    cosines = {model: [run["cosine"] for run in runs] for model, runs in told.items()}
    shown = "; ".join(f"{model}: {min(c):.2f} to {max(c):.2f}" for model, c in cosines.items())
    return [*lines, "", f"Cosine of the gradients of the right and of the flipped validation labels: {shown}."]


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
