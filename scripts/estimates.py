"""What scoring large networks would take, from shapes alone: `infprune doctor --estimate` in a table.

    python scripts/estimates.py            # needs what scripts/bench_speed.py needs

Writes docs/results/estimates.md and .json. The rates of the machine are measured once per network. Small networks are
scored, and what that takes is compared with what was estimated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench_speed
import torch

from infprune import config
from infprune.estimate import estimate as sizes
from infprune.estimate import measured_rates
from infprune.files import atomic_write
from infprune.pipeline import estimate
from infprune.pipeline.estimate_results import EstimateResult
from infprune.progress import Silent
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import score

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NETWORKS = ("resnet50", "vit_l_16", "convnext_large")
CRITERIA = ("influence", "gate")
SMALL = ("alexnet5", "resnet56", "resnet18-96")
BATCH, SAMPLES = 64, 2048
BUDGET = 16.0  # GiB


def estimated(network: str, criterion: str, threads: int) -> EstimateResult:
    words = [
        f"model.name=torchvision:{network}", "model.inputs=[{shape: [3, 224, 224]}]", "model.checkpoint=random",
        f"score.criterion={criterion}", f"data.batch_size={BATCH}", f"data.calibration={SAMPLES}",
        f"run.threads={threads}",
    ]  # fmt: skip
    return estimate.run(config.load("digits", words), BUDGET, Silent())


def row(found: dict[str, Any]) -> str:
    m, w = found["memory"], found["work"]
    held = " | ".join(f"{m[key] / 2**30:.2f}" for key in ("weights", "activations", "factors", "solving", "peak"))
    flops = " | ".join(f"{f / 1e12:.1f}" for f in (w["forward"] + w["backward"], w["gram"], w["factorising"]))
    name = found["model"].removeprefix("torchvision:")
    advice = "; ".join(found["advice"]) or "fits"
    return f"| {name} | {found['criterion']} | {held} | {flops} | {found['seconds_expected'] / 60:.0f} | {advice} |"


def checked(name: str, runs: int) -> dict[str, float]:
    """What was estimated for a small network, and what was measured: bytes, CPU seconds of one thread (medians)."""
    case = bench_speed.opened(bench_speed.NETWORKS[name])
    x, y = case.data[0]
    found = sizes(
        case.module, case.coupling, case.layers, x[:2],
        batch=len(y), samples=case.samples, positions=bench_speed.POSITIONS,
    )  # fmt: skip
    rows = []
    for _ in range(runs + 1):  # the first warms up
        rates, start = measured_rates(), bench_speed.clock()
        statistics_ = bench_speed.collected(case, "influence", bench_speed.POSITIONS)
        middle = bench_speed.clock()
        score("influence", ScoringInputs(case.module, case.layers, statistics_))
        solving = found.factorising / rates.factorising
        rows.append((found.seconds(rates) - solving, middle - start, solving, bench_speed.clock() - middle))
    passes, passed, solving, solved = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    command = [sys.executable, bench_speed.__file__, "--child", name, "influence"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    return {
        "peak": found.peak - found.weights, "peak_measured": peak,
        "pass": passes, "pass_measured": passed, "solving": solving, "solving_measured": solved,
    }  # fmt: skip


def compared(name: str, of: dict[str, float]) -> str:
    cells = []
    for key, unit in (("peak", 2**20), ("pass", 1), ("solving", 1)):
        one, other = of[key], of[f"{key}_measured"]
        digits = 0 if key == "peak" else 2
        cells.append(f"{one / unit:.{digits}f} | {other / unit:.{digits}f} | {other / one:.2f}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="large,small")
    parser.add_argument("--runs", type=int, default=3, help="of the small networks")
    chosen = parser.parse_args()
    path = RESULTS / "estimates.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if "large" in chosen.parts:
        known["large"] = []
        for network in NETWORKS:
            for criterion in CRITERIA:
                known["large"].append(asdict(estimated(network, criterion, chosen.threads)))
                print(row(known["large"][-1]), flush=True)
    if "small" in chosen.parts:
        torch.set_num_threads(1)
        known["small"] = {"runs": chosen.runs, "networks": {}}
        for name in SMALL:
            known["small"]["networks"][name] = checked(name, chosen.runs)
            print(compared(name, known["small"]["networks"][name]), flush=True)
    atomic_write(path, json.dumps(known, indent=1) + "\n")
    atomic_write(RESULTS / "estimates.md", page(known))


def page(known: dict[str, Any]) -> str:
    lines = [
        "# What scoring large networks would take",
        "",
        "`python scripts/estimates.py`: `infprune doctor --estimate` for images of 224 x 224, from shapes on the meta",
        f"device: nothing that large was allocated, nothing was run. {SAMPLES:,} calibration samples in",
        f"batches of {BATCH}, 64 positions per sample, float32 sums; a budget of {BUDGET:g} GiB. GiB of weights, of",
        "what autograd saves for one batch, of Kronecker factors, of inverting all that reads one layer, and at the",
        "peak; TFLOP of forward and backward passes, of Gram matrices, of inversions and eliminations. Minutes: by",
        "rates of convolutions, products and factorisations measured for half a second on one thread (CPU time);",
        "elementwise work is not counted. Layers whose trial cut would fail count as prunable. The model is",
        "`infprune.estimate`; tests hold its memory against measured peaks of small networks (within a factor of 1.5).",
        "",
        "| network | criterion | weights | batch | factors | inverting | peak | passes | Gram | solving | minutes | |",
        "|---|---|" + "---:|" * 9 + "---|",
        *map(row, known.get("large", [])),
    ]
    if "small" in known:
        lines += [
            "",
            "## Against small networks",
            "",
            "`influence` on random images, as in [What scores cost](speed.md): the peak in MiB without weights and",
            f"data; CPU seconds of one thread, median of {known['small']['runs']}, the rates measured before each run.",
            "What small matrices and norms cost beside their products, no rate counts.",
            "",
            "| network | MiB | measured | ratio | s of the pass | measured | ratio | s of solving | measured | ratio |",
            "|---|" + "---:|" * 9,
            *(compared(name, of) for name, of in known["small"]["networks"].items()),
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
