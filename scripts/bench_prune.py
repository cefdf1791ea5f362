"""What a whole prune costs: each stage in units of one forward and backward pass over the calibration samples.

    python scripts/bench_prune.py digits
    python scripts/bench_prune.py cifar10-resnet56 --runs 3 data.root=PATH model.checkpoint=FILE

A bare pass (cross-entropy, gradients of all weights, the same batches, data loading included), then `infprune prune`,
alternating in one process; medians, least and largest of the ratios. Rows of other configurations stay in the table.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from infprune import config
from infprune.files import atomic_write
from infprune.forward import logits
from infprune.pipeline import prune
from infprune.pipeline.session import open_model, open_session
from infprune.progress import Silent

RESULTS = Path(__file__).parents[1] / "docs" / "results"
STAGES = (
    "load",
    "coupling",
    "score",
    "evaluate",
    "search",
    "cut",
    "compensate",
    "distill",
    "finetune",
    "latency",
    "write",
)
TARGET = 25.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = config.load(chosen.config, [*chosen.words, f"run.dir={folder}"])
        runs = [measured(settings) for _ in range(chosen.runs)]
    words = [w for w in chosen.words if not w.startswith(("data.root=", "model.checkpoint="))]
    write(" ".join([chosen.config, *words]), settings, runs)


def measured(settings: config.Config) -> dict[str, Any]:
    session = open_session(settings, "prune")
    module, batches = open_model(session), session.calibration()
    start = time.perf_counter()
    for x, y in batches:
        module.zero_grad()
        F.cross_entropy(logits(module, x), y).backward()
    bare = time.perf_counter() - start
    start = time.perf_counter()
    result = prune.run(settings, Silent())
    return {"pass": bare, "whole": time.perf_counter() - start, "stages": result.seconds}


def write(name: str, settings: config.Config, runs: list[dict[str, Any]]) -> None:
    path = RESULTS / "prune-cost.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    row = {"samples": settings.data.calibration, "threads": torch.get_num_threads(), "runs": runs}
    known[name] = row
    stages = [s for s in STAGES if any(s in r["stages"] for v in known.values() for r in v["runs"])]
    others = {s for v in known.values() for r in v["runs"] for s in r["stages"]}.difference(STAGES)
    stages += sorted(others)
    lines = [
        "# What a whole prune costs",
        "",
        "`python scripts/bench_prune.py CONFIG`: seconds of `infprune prune` over those of one bare forward and",
        "backward pass over the same calibration samples, alternating in one process: the median over the runs, the",
        f"whole also with the least and the largest. Asked on ResNet-56: at most {TARGET:g}.",
        "",
        "| configuration | samples | threads | runs | pass, s | whole | " + " | ".join(stages) + " |",
        "|---|---:|---:|---:|---:|---:|" + "---:|" * len(stages),
    ]
    for title, v in sorted(known.items()):
        ratios = [r["whole"] / r["pass"] for r in v["runs"]]
        parts = [share(v["runs"], stage) for stage in stages]
        lines.append(
            f"| {title} | {v['samples']} | {v['threads']} | {len(ratios)} "
            f"| {statistics.median(r['pass'] for r in v['runs']):.2f} "
            f"| {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | " + " | ".join(parts) + " |"
        )
    atomic_write(RESULTS / "prune-cost.md", "\n".join(lines) + "\n")
    atomic_write(path, json.dumps(known, indent=1))
    print("\n".join(lines))


def share(runs: list[dict[str, Any]], stage: str) -> str:
    """Of the pass; a dash for a stage that did not exist when the row was measured, or was not run."""
    if not all(stage in r["stages"] for r in runs):
        return "-"
    return f"{statistics.median(r['stages'][stage] / r['pass'] for r in runs):.2f}"


if __name__ == "__main__":
    main()
