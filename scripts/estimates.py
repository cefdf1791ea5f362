"""What scoring large networks would take, from shapes alone: `infprune doctor --estimate` in a table.

    python scripts/estimates.py            # needs what scripts/bench_speed.py needs; --parts large,small,budget

Writes docs/results/estimates.md and .json. The rates of the machine are measured once per network. Small networks are
scored, and what that takes is compared with what was estimated, without and with a budget (`score.memory`).
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
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from infprune import config
from infprune.config import Config
from infprune.data.dataset import ArrayDataset, Source
from infprune.estimate import Estimate, measured_rates
from infprune.estimate import estimate as sizes
from infprune.files import atomic_write
from infprune.passes import gib, planned
from infprune.pipeline import estimate
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.estimate_results import EstimateResult
from infprune.pipeline.passes import planned_passes
from infprune.pipeline.score import scored
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import needs_of, score

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NETWORKS = ("torchvision:resnet50", "torchvision:vit_l_16", "torchvision:convnext_large", "estimates:convnext_xlarge")
CRITERIA = ("influence", "gate")
SMALL = ("alexnet5", "resnet56", "resnet18-96")
BATCH, SAMPLES = 64, 2048
BUDGET = 16.0  # GiB
BUDGETED = 64  # samples that are scored within budgets
SHARE = 0.4  # of the factors of all layers that the second budget has room for


def convnext_xlarge() -> nn.Module:
    """ConvNeXt-XL (Liu et al., 2022, appendix A.1): widths 256 to 2,048, which torchvision does not name."""
    widths, depths = (256, 512, 1024, 2048), (3, 3, 27, 3)
    following = (*widths[1:], None)
    return ConvNeXt([CNBlockConfig(*of) for of in zip(widths, following, depths, strict=True)])


def estimated(network: str, criterion: str, threads: int) -> EstimateResult:
    by = "name" if network.startswith("torchvision:") else "factory"
    words = [
        f"model.{by}={network}", "model.inputs=[{shape: [3, 224, 224]}]", "model.checkpoint=random",
        f"score.criterion={criterion}", f"data.batch_size={BATCH}", f"data.calibration={SAMPLES}",
        f"run.threads={threads}",
    ]  # fmt: skip
    return estimate.run(config.load("digits", words), BUDGET, Silent())


def row(found: dict[str, Any]) -> str:
    m, w = found["memory"], found["work"]
    held = " | ".join(f"{m[key] / 2**30:.2f}" for key in ("weights", "activations", "factors", "solving", "peak"))
    flops = " | ".join(f"{f / 1e12:.1f}" for f in (w["forward"] + w["backward"], w["gram"], w["factorising"]))
    name = found["model"].rpartition(":")[2]
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


# --- within a budget --------------------------------------------------------------------------------------------------


def images(name: str) -> Source:
    """Random ones for a network of `bench_speed.NETWORKS`; a data factory."""
    of = bench_speed.NETWORKS[name]
    x, y = torch.randn(2 * BUDGETED, *of.shape), torch.arange(2 * BUDGETED) % of.classes
    return Source(ArrayDataset(x, y), ArrayDataset(x[:2], y[:2]), of.classes, of.shape)


def settings(name: str, memory: str | None) -> Config:
    of = bench_speed.NETWORKS[name]
    words = [
        f"model.name={of.network}", "model.checkpoint=random", f"data.factory={Path(__file__).stem}:images",
        f"data.args={{name: {name}}}", f"data.batch_size={of.batch}", f"data.calibration={BUDGETED}",
        "prune.scope=global", "run.threads=1", f"score.memory={memory or 'null'}",
    ]  # fmt: skip
    return config.load("digits", words)


def opened(name: str, memory: str | None) -> tuple[Bench, Estimate]:
    bench = open_bench(settings(name, memory), "bench", Stopwatch())
    data = bench.session.config.data
    return bench, sizes(
        bench.dense, bench.coupling, bench.layers, bench.session.example(),
        batch=data.batch_size, samples=data.calibration, positions=data.positions,
    )  # fmt: skip


def budgeted(name: str, runs: int) -> list[dict[str, Any]]:
    """Score without a budget, with one for a share of the factors if that is enough, and with the least."""
    bench, found = opened(name, None)
    shared = found.weights + SHARE * found.factors + max(found.activations, found.solving)
    least = planned(found, bench.layers, 0).peak
    rows = []
    for memory in (None, *(gib(b) for b in (shared, least) if b >= least)):
        budget = float(memory) * 2**30 if memory else None
        plan = planned(found, bench.layers, budget or float("inf"))
        command = [sys.executable, __file__, "--child", name, memory or ""]
        done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(runs)]
        told = [json.loads(one.stdout.splitlines()[-1]) for one in done]
        rows.append({
            "budget": budget and budget - found.weights, "passes": told[0]["passes"], "batch": plan.batch,
            "peak": plan.peak - found.weights, "peaks": [t["peak"] for t in told],
            "seconds": [t["seconds"] for t in told],
        })  # fmt: skip
        print(within(name, rows[-1]), flush=True)
    return rows


def child(name: str, memory: str) -> None:
    """Print what scoring adds to the peak of resident memory, in a process of its own."""
    bench, _ = opened(name, memory or None)
    few = [(bench.session.example(), torch.zeros(2, dtype=torch.int64))]
    bench_speed.bare(bench_speed.Case(bench.dense, bench.coupling, bench.layers, few))  # type: ignore[arg-type]  # libraries start
    bench.dense.zero_grad()
    passes = len(planned_passes(bench, ("influence",), needs_of(["influence"])))
    bench_speed.reset_peak()
    before, start = bench_speed.peak(), bench_speed.clock()
    scored(bench, ("influence",), 0, Silent())
    found = {"peak": bench_speed.peak() - before, "seconds": bench_speed.clock() - start, "passes": passes}
    print(json.dumps(found))


def within(name: str, of: dict[str, Any]) -> str:
    budget = f"{of['budget'] / 2**20:.0f}" if of["budget"] else "none"
    peaks, peak = [p / 2**20 for p in of["peaks"]], of["peak"] / 2**20
    measured = statistics.median(peaks)
    return (
        f"| {name} | {budget} | {of['passes']} | {of['batch']} | {peak:.0f} | {measured:.0f} ({min(peaks):.0f} to "
        f"{max(peaks):.0f}) | {measured / peak:.2f} | {statistics.median(of['seconds']):.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="large,small,budget")
    parser.add_argument("--runs", type=int, default=3, help="of the small networks")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(*chosen.child)
        return
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
    if "budget" in chosen.parts:
        known["budget"] = {"runs": chosen.runs, "networks": {name: budgeted(name, chosen.runs) for name in SMALL}}
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
    if "budget" in known:
        lines += [
            "",
            "## Within a budget",
            "",
            f"`influence` of {BUDGETED} such images through `score` itself (`prune.scope=global`), in batches of "
            + ", ".join(f"{bench_speed.NETWORKS[name].batch} ({name})" for name in known["budget"]["networks"]) + ":",
            f"without `score.memory`, with room for {SHARE:.0%} of the factors where that is enough, and with the",
            "least that is not refused. MiB without weights and data, each run in a process of its own; measured:",
            f"median (least to largest) of {known['budget']['runs']}; CPU seconds of one thread, median.",
            "",
            "| network | budget | passes | samples at a time | estimated MiB | measured | ratio | CPU s |",
            "|---|" + "---:|" * 7,
            *(within(name, of) for name, rows in known["budget"]["networks"].items() for of in rows),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
