"""What scoring large networks would take, from shapes alone: `infprune doctor --estimate` in a table.

    python scripts/estimates.py --threads 2

Writes docs/results/estimates.md and .json. The rates of the machine are measured once per network.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from infprune import config
from infprune.files import atomic_write
from infprune.pipeline import estimate
from infprune.pipeline.estimate_results import EstimateResult
from infprune.progress import Silent

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NETWORKS = ("resnet50", "vit_l_16", "convnext_large")
CRITERIA = ("influence", "gate")
BATCH, SAMPLES = 64, 2048
BUDGET = 16.0  # GiB


def estimated(network: str, criterion: str, threads: int) -> EstimateResult:
    words = [
        f"model.name=torchvision:{network}", "model.inputs=[{shape: [3, 224, 224]}]", "model.checkpoint=random",
        f"score.criterion={criterion}", f"data.batch_size={BATCH}", f"data.calibration={SAMPLES}",
        f"run.threads={threads}",
    ]  # fmt: skip
    return estimate.run(config.load("digits", words), BUDGET, Silent())


def row(found: EstimateResult) -> str:
    m, w = found.memory, found.work
    sizes = " | ".join(f"{size / 2**30:.2f}" for size in (m.weights, m.activations, m.factors, m.solving, m.peak))
    flops = " | ".join(f"{f / 1e12:.1f}" for f in (w.forward + w.backward, w.gram, w.factorising))
    name = found.model.removeprefix("torchvision:")
    advice = "; ".join(found.advice) or "fits"
    return f"| {name} | {found.criterion} | {sizes} | {flops} | {found.seconds_expected / 60:.0f} | {advice} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    found = []
    for network in NETWORKS:
        for criterion in CRITERIA:
            found.append(estimated(network, criterion, chosen.threads))
            print(row(found[-1]), flush=True)
    lines = [
        "# What scoring large networks would take",
        "",
        "`python scripts/estimates.py`: `infprune doctor --estimate` for images of 224 x 224, from shapes on the meta",
        f"device: nothing that large was allocated, nothing was run. {SAMPLES:,} calibration samples in",
        f"batches of {BATCH}, 64 positions per sample, float32 sums; a budget of {BUDGET:g} GiB. GiB of weights, of",
        "what autograd saves for one batch, of Kronecker factors, of inverting the widest weight, and at the peak;",
        "TFLOP of forward and backward passes, of Gram matrices, of inversions and eliminations. Minutes: by rates of",
        "convolutions, products and factorisations measured for half a second on two busy cores (CPU time);",
        "elementwise work is not counted. Layers whose trial cut would fail count as prunable. The model is",
        "`infprune.estimate`; tests hold its memory against measured peaks of small networks (within a factor of 1.5).",
        "",
        "| network | criterion | weights | batch | factors | inverting | peak | passes | Gram | solving | minutes | |",
        "|---|---|" + "---:|" * 9 + "---|",
        *map(row, found),
    ]
    atomic_write(RESULTS / "estimates.md", "\n".join(lines) + "\n")
    atomic_write(RESULTS / "estimates.json", json.dumps([asdict(f) for f in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
