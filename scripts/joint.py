"""Fine-tuning budgets spent in different ways, at equal epochs and equal MACs: INF-CP against pruning first.

    python scripts/joint.py digits --macs 0.59 --epochs 12 --seeds 5
    python scripts/joint.py mnist-alexnet5 --macs 0.59 --epochs 4 --seeds 5 data.root=PATH model.checkpoint=FILE
    python scripts/joint.py cifar10-resnet56 --macs 0.59 --epochs 2 --seeds 1 data.root=PATH model.checkpoint=FILE

Rows: the dense network fine-tuned equally long; INF-CP and network slimming, which learn what to cut in the first half
of the epochs; our scores and compensation after that half; prune-then-fine-tune with scores, without and with our
compensation. Test accuracy after the last epoch; mean and sample standard deviation over seeds (of training order,
augmentation and calibration samples). An interrupted run goes on where it was.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infprune import config
from infprune.files import atomic_write
from infprune.pipeline import prune
from infprune.progress import Silent

RESULTS = Path(__file__).parents[1] / "docs" / "results"
ROWS: dict[str, tuple[str, ...]] = {
    "dense, fine-tuned": ("prune.rate=0", "prune.scope=global", "prune.compensate=none", "score.criterion=magnitude"),
    "INF-CP": ("finetune.method=inf-cp",),
    "slimming": ("finetune.method=slimming",),
    "midway, influence + compensation (ours)": ("finetune.method=midway",),
    "influence + compensation (ours)": ("score.criterion=influence",),
    "influence": ("score.criterion=influence", "prune.compensate=none"),
    "inf-cp score": ("score.criterion=inf-cp", "prune.compensate=none", "prune.scope=global"),
    "taylor": ("score.criterion=taylor", "prune.compensate=none", "prune.scope=global"),
    "magnitude": ("score.criterion=magnitude", "prune.compensate=none", "prune.scope=global"),
    "magnitude, every layer alike": ("score.criterion=magnitude", "prune.compensate=none", "prune.scope=layer"),
    "random, every layer alike": ("score.criterion=random", "prune.compensate=none", "prune.scope=layer"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--macs", type=float, default=0.59)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated parts of row names")
    chosen = parser.parse_intermixed_args()
    store = Path(f"runs/joint-{chosen.config}-{chosen.macs:g}-{chosen.epochs}.json")
    found: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for seed in range(chosen.seeds):
        for row, words in ROWS.items():
            key = f"{row}/{seed}"
            if key in found or not any(part in row for part in chosen.only.split(",")):
                continue
            found[key] = measured(chosen, row, words, seed)
            atomic_write(store, json.dumps(found))
            print(key, {k: found[key][k] for k in ("accuracy", "macs", "seconds")}, flush=True)
    show(chosen, found)


def measured(chosen: argparse.Namespace, row: str, words: tuple[str, ...], seed: int) -> dict[str, Any]:
    budget = [] if "dense" in row else [f"prune.macs={chosen.macs}"]
    common = ["prune.finetune=true", f"finetune.epochs={chosen.epochs}", f"run.seed={seed}", f"run.dir=runs/{row}"]
    settings = config.load(chosen.config, [*common, *budget, *chosen.words, *words])
    result = prune.run(settings, Silent())
    kept = {r.name: r.kept / r.channels for r in result.layers}
    told = {"accuracy": asdict(result.accuracy), "macs": result.macs.after / result.macs.before, "kept": kept}
    return {**told, "seconds": sum(result.seconds.values()), "joint": result.joint and asdict(result.joint)}


def show(chosen: argparse.Namespace, found: dict[str, Any]) -> None:
    """The table, as Markdown and JSON."""
    rows = {}
    for row in ROWS:
        runs = [found[key] for key in (f"{row}/{seed}" for seed in range(chosen.seeds)) if key in found]
        if runs:
            rows[row] = {
                "n": len(runs),
                "final": spread([r["accuracy"]["finetuned"] for r in runs]),
                "before": spread([before(r["accuracy"]) for r in runs]),
                "macs": statistics.mean(r["macs"] for r in runs),
                "seconds": statistics.median(r["seconds"] for r in runs),
            }
    words = " ".join(w.partition("=")[0] + "=" + ("PATH" if "/" in w else w.partition("=")[2]) for w in chosen.words)
    command = f"python scripts/joint.py {chosen.config} --macs {chosen.macs:g} --epochs {chosen.epochs}"
    command = f"{command} --seeds {chosen.seeds} {words}".strip()
    dense = next(iter(found.values()))["accuracy"]["dense"]
    lines = [
        f"# {chosen.config}: {chosen.epochs} epochs of fine-tuning, at most {chosen.macs:.0%} of the MACs",
        "",
        f"`{command}`",
        "",
        f"Test accuracy in %, last epoch: mean (sample standard deviation) over seeds. Dense: {100 * dense:.2f}.",
        "",
        "| | n | MACs kept | before fine-tuning | after the last epoch | seconds, median |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, r in rows.items():
        lines.append(
            f"| {row} | {r['n']} | {r['macs']:.1%} | {cell(r['before'])} | {cell(r['final'])} | {r['seconds']:.0f} |"
        )
    print("\n".join(lines))
    name = f"joint-{chosen.config}"
    atomic_write(RESULTS / f"{name}.md", "\n".join(lines) + "\n")
    atomic_write(RESULTS / f"{name}.json", json.dumps({"command": command, "dense": dense, "rows": rows}, indent=1))


def before(accuracy: dict[str, Any]) -> float:
    """What fine-tuning starts from."""
    found = [accuracy.get(stage) for stage in ("distilled", "compensated", "cut")]
    return next(value for value in found if value is not None)


def spread(values: list[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def cell(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.2f} ({100 * value[1]:.2f})"


if __name__ == "__main__":
    main()
