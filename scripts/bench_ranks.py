"""How long scoring takes with one process and with two, on one machine.

    python scripts/bench_ranks.py cifar10-resnet20 data.root=PATH model.checkpoint=FILE

`infprune score` with one process of one thread, one of two threads, and two ranks of one thread each (torchrun,
gloo), in turns; seconds of the whole command and of its stage `score`, medians with least and largest, and whether the
plan is the same. Rows of other configurations stay in the table. Writes docs/results/ranks.md and .json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from infprune.files import atomic_write

RESULTS = Path(__file__).parents[1] / "docs" / "results"
WAYS = {
    "1 process, 1 thread": (1, 1),
    "1 process, 2 threads": (1, 2),
    "2 ranks, 1 thread each": (2, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_intermixed_args()
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(chosen.runs):
        for way, (ranks, threads) in WAYS.items():
            found[way].append(measured(chosen, ranks, threads))
            print(way, found[way][-1]["whole"], found[way][-1]["score"], flush=True)
    path = RESULTS / "ranks.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[chosen.config] = found
    atomic_write(path, json.dumps(known, indent=1))
    lines = [
        "# Scoring with one process and with two",
        "",
        "`python scripts/bench_ranks.py CONFIG`: `infprune score` on a machine of two cores, in turns; seconds of",
        "the whole command (start, loading and tracing included, which every rank does for itself) and of its stage",
        "`score`: median (least to largest).",
        "",
        "| configuration | | runs | whole, s | score, s | plan |",
        "|---|---|---:|---:|---:|---|",
    ]
    for config, ways in known.items():
        first = next(iter(ways.values()))[0]["kept"]
        for way, runs in ways.items():
            same = "the same" if all(r["kept"] == first for r in runs) else "another"
            cells = (spread([r[key] for r in runs]) for key in ("whole", "score"))
            lines.append(f"| {config} | {way} | {len(runs)} | {' | '.join(cells)} | {same} |")
    atomic_write(RESULTS / "ranks.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def measured(chosen: argparse.Namespace, ranks: int, threads: int) -> dict[str, Any]:
    """One command: its seconds, and how many channels of each layer it keeps."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        words = ["score", "-c", chosen.config, "prune.rate=0.5", "--json", "-o", f"{folder}/scores.safetensors"]
        words += [*chosen.words, f"run.dir={folder}/run", f"run.threads={threads}"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "infprune", *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        whole = time.perf_counter() - start
    result = json.loads(done.stdout)
    kept = {row["name"]: row["kept"] for row in result["layers"]}
    return {"whole": whole, "score": result["seconds"]["score"], "kept": kept}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
