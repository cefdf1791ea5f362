"""What scores cost: CPU seconds and memory of each, in units of a bare forward and backward pass over the same batches.

    pip install torch-pruning curvlinops-for-pytorch
    python scripts/bench_speed.py                       # everything; parts and networks can be named
    python scripts/bench_speed.py --parts times --networks alexnet5,resnet56 --only influence,inf-cp --runs 7

Random images and labels, random weights. A run is a bare pass (eval mode, gradients of all weights) right before each
contender (A B A C ...), so that other work on the machine meets both. Results of earlier calls stay in the tables.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune import selection
from infprune.coupling.couple import couple
from infprune.coupling.groups import ChannelLayer, Coupling, Role
from infprune.files import atomic_write
from infprune.models.alexnet import AlexNet
from infprune.models.build import build
from infprune.scores import SCORES
from infprune.scores.contract import Need, ScoringInputs, Statistics
from infprune.scores.measure import collect, needs_of, score

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PARTS = ("times", "memory", "growth", "agreement")
POSITIONS = 64  # the default of data.positions
USUAL = 2048  # the default of data.calibration
PEER_SAMPLES = 16  # of a Hessian that takes one backward pass per sample, in batches of one
PEER_BACKWARDS = 4  # of one that takes them through the graph of the whole batch
PRODUCTS = 8  # Hessian-vector products of the paper's recipe that are measured
CHANNELS = 2  # on so many channels
DOCUMENTED, SINGLE = "Torch-Pruning Hessian (as documented)", "Torch-Pruning Hessian (batches of one)"
CURVLINOPS, PAPER = "curvlinops KFAC", "paper per channel"
TIMES_FASTER = {DOCUMENTED: 15, PAPER: 1000}  # asked of `influence`
LIMITS = {"inf-cp": 1.15, "taylor": 1.15, "gate": 1.15, "influence": 2.5}
ALEXNET_INFLUENCE = 4.0

clock = time.process_time  # CPU seconds of the process: what other jobs take in between does not count

Data = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Setting:
    """A network (a name of `models.build`, or a function), one sample's shape, and the batches."""

    network: str | Callable[[], nn.Module]
    shape: tuple[int, int, int]
    classes: int
    batch: int
    batches: int


NETWORKS = {
    "alexnet5": Setting("alexnet5", (1, 28, 28), 10, 64, 1),
    "resnet18-96": Setting("torchvision:resnet18", (3, 96, 96), 1000, 16, 1),
    "resnet18-96 in batches of 32": Setting("torchvision:resnet18", (3, 96, 96), 1000, 32, 2),
    "resnet18-96 in batches of 64": Setting("torchvision:resnet18", (3, 96, 96), 1000, 64, 1),
    "resnet56": Setting("resnet56", (3, 32, 32), 10, 32, 1),
    "resnet56 in batches of 64": Setting("resnet56", (3, 32, 32), 10, 64, 1),
    "mobilenet_v2-96": Setting("torchvision:mobilenet_v2", (3, 96, 96), 1000, 16, 1),
}


@dataclass(frozen=True)
class Case:
    """A network that can be scored."""

    module: nn.Module
    coupling: Coupling
    layers: Sequence[ChannelLayer]
    data: Data

    @property
    def samples(self) -> int:
        return sum(len(y) for _, y in self.data)

    @property
    def channels(self) -> int:
        return sum(layer.size for layer in self.layers)


def opened(setting: Setting) -> Case:
    torch.manual_seed(0)
    network = setting.network
    module = (build(network, None, {}) if isinstance(network, str) else network()).eval()
    data = [
        (torch.randn(setting.batch, *setting.shape), torch.randint(setting.classes, (setting.batch,)))
        for _ in range(setting.batches)
    ]
    coupling = couple(module, data[0][0][:2])
    return Case(module, coupling, selection.prunable(coupling), data)


# --- contenders -------------------------------------------------------------------------------------------------------


def bare(case: Case) -> None:
    case.module.eval()
    for x, y in case.data:
        case.module.zero_grad()
        F.cross_entropy(case.module(x), y).backward()


def step(case: Case) -> None:
    """A training step per batch: what memory is compared with."""
    case.module.train()
    optimizer = torch.optim.SGD(case.module.parameters(), 0.01, momentum=0.9)
    for x, y in case.data:
        optimizer.zero_grad()
        F.cross_entropy(case.module(x), y).backward()
        optimizer.step()


def collected(case: Case, criterion: str, positions: int | None) -> Statistics:
    needs: frozenset[Need] = needs_of([criterion])
    return collect(case.module, case.layers, case.data, needs, seed=0, draws=1, positions=positions)


def ours(criterion: str, positions: int | None, case: Case) -> dict[str, float]:
    """Score; `solve`: the seconds that do not depend on the number of samples."""
    case.module.zero_grad()
    statistics_ = collected(case, criterion, positions)
    start = clock()
    score(criterion, ScoringInputs(case.module, case.layers, statistics_))
    return {"solve": clock() - start}


def contenders(case: Case, only: Sequence[str]) -> dict[str, Callable[[Case], Any]]:
    found: dict[str, Callable[[Case], Any]] = {name: partial(ours, name, POSITIONS) for name in SCORES}
    if not has_norms(case.module):
        del found["bn-scale"]
    found["influence, all positions"] = partial(ours, "influence", None)
    found |= {"Torch-Pruning Taylor": pruning_taylor, DOCUMENTED: pruning_documented, SINGLE: pruning_single}
    found |= {CURVLINOPS: curvlinops_kfac, PAPER: paper}
    return {name: run for name, run in found.items() if not only or name in only}


def has_norms(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())  # noqa: SLF001


def pruning_taylor(case: Case) -> None:
    import torch_pruning as tp  # noqa: PLC0415 - only this row needs it

    bare(case)
    estimated(case, tp.importance.GroupTaylorImportance())


def pruning_documented(case: Case) -> dict[str, float]:
    """As the docstring of `GroupHessianImportance` (1.6.1) shows it: one forward pass, and for each sample a backward
    pass through the graph of the whole batch. `scaled`: to all samples, from some of the first batch.
    """
    import torch_pruning as tp  # noqa: PLC0415

    importance = tp.importance.GroupHessianImportance()
    importance.zero_grad()
    x, y = case.data[0]
    start = clock()
    losses = F.cross_entropy(case.module(x), y, reduction="none")
    forward = clock() - start
    start = clock()
    for loss in losses[:PEER_BACKWARDS]:
        case.module.zero_grad()
        loss.backward(retain_graph=True)
        importance.accumulate_grad(case.module)
    backward = (clock() - start) / PEER_BACKWARDS
    return scaled(case, importance, forward * len(case.data) + backward * case.samples)


def pruning_single(case: Case) -> dict[str, float]:
    """The same gradients in less time than its documentation takes: batches of one sample. `scaled` as above."""
    import torch_pruning as tp  # noqa: PLC0415

    importance = tp.importance.GroupHessianImportance()
    importance.zero_grad()
    x, y = (t[:PEER_SAMPLES] for t in case.data[0])
    start = clock()
    for one, label in zip(x, y, strict=True):
        case.module.zero_grad()
        F.cross_entropy(case.module(one[None]), label[None]).backward()
        importance.accumulate_grad(case.module)
    return scaled(case, importance, (clock() - start) / len(x) * case.samples)


def scaled(case: Case, importance: Any, gradients: float) -> dict[str, float]:
    start = clock()
    estimated(case, importance)
    solve = clock() - start
    return {"scaled": gradients + solve, "solve": solve}


def estimated(case: Case, importance: Any) -> None:
    """Torch-Pruning's scores of all groups, its graph built beforehand."""
    for group in groups_of(case):
        importance(group)


KNOWN: dict[int, Any] = {}  # Torch-Pruning's groups by network


def groups_of(case: Case) -> list[Any]:
    if id(case.module) not in KNOWN:
        import torch_pruning as tp  # noqa: PLC0415

        producers = {s.tensor.rpartition(".")[0] for layer in case.layers for s in layer.having(Role.PRODUCER)}
        kinds = nn.modules.conv._ConvNd | nn.Linear  # noqa: SLF001 - base of all convolutions
        left = [m for n, m in case.module.named_modules() if isinstance(m, kinds) and n not in producers]
        graph = tp.DependencyGraph().build_dependency(case.module, example_inputs=case.data[0][0][:2])
        KNOWN[id(case.module)] = list(graph.get_all_groups(ignored_layers=left))
    return KNOWN[id(case.module)]


def curvlinops_kfac(case: Case) -> None:
    from curvlinops import KFACLinearOperator  # noqa: PLC0415

    kinds = nn.Conv2d | nn.Linear
    weights = [p for m in case.module.modules() if isinstance(m, kinds) for p in m.parameters()]
    for m in case.module.modules():
        if isinstance(m, nn.ReLU | nn.ReLU6):
            m.inplace = False
    KFACLinearOperator(
        case.module,
        nn.CrossEntropyLoss(),
        weights,
        case.data,
        check_deterministic=False,
        separate_weight_and_bias=False,
    ).compute_kronecker_factors()


def paper(case: Case) -> dict[str, float]:
    """MU eq. 6: one Neumann series per channel, each term one Hessian-vector product on one drawn sample.

    `scaled`: to as many terms as there are samples (one pass) and to all channels, from a few of both.
    """
    parameters = [p for p in case.module.parameters() if p.requires_grad]
    x, y = case.data[0]
    start = clock()
    for channel in range(CHANNELS):
        layer = case.layers[channel % len(case.layers)]
        mask = next(s for s in layer.having(Role.CONSUMER))
        named = dict(case.module.named_parameters())
        v = [torch.zeros_like(p) for p in parameters]
        at = next(i for i, p in enumerate(parameters) if p is named[mask.tensor])
        v[at].index_fill_(mask.dim, mask.index[channel], 1.0)
        found = v
        for n in range(PRODUCTS):
            loss = F.cross_entropy(case.module(x[n : n + 1]), y[n : n + 1])
            g = torch.autograd.grad(loss, parameters, create_graph=True)
            Hv = torch.autograd.grad(g, parameters, found, allow_unused=True)
            found = [a + b - (0 if c is None else 1e-3 * c) for a, b, c in zip(v, found, Hv, strict=True)]
    per_channel = (clock() - start) / CHANNELS / PRODUCTS * case.samples
    return {"scaled": per_channel * case.channels}


# --- times ------------------------------------------------------------------------------------------------------------


def timed(work: Callable[[Case], Any], case: Case) -> dict[str, float]:
    start = clock()
    found = work(case)
    seconds = clock() - start
    found = dict(found or {})
    return {"seconds": found.get("scaled", seconds), "solve": found.get("solve", 0.0)}


def paired(case: Case, works: dict[str, Callable[[Case], Any]], runs: int) -> dict[str, list[dict[str, float]]]:
    """Each contender right after a bare pass; the first round warms up and is dropped."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for number in range(runs + 1):
        for name, work in list(works.items()):
            before = timed(bare, case)["seconds"]
            try:
                mine = timed(work, case)
            except Exception as error:  # noqa: BLE001 - a peer that does not run is told and left out
                print(f"{name} is left out: {type(error).__name__}: {str(error)[:200]}", flush=True)
                del works[name], rows[name]
                continue
            if number:
                rows[name].append(mine | {"bare": before})
        print(f"round {number} of {runs}", flush=True)
    return rows


def times(chosen: argparse.Namespace, known: dict[str, Any]) -> Iterator[None]:
    for name in chosen.networks:
        case = opened(NETWORKS[name])
        rows = paired(case, contenders(case, chosen.only), chosen.runs)
        entry = known.setdefault("times", {}).setdefault(name, {"rows": {}})
        entry |= {"samples": case.samples, "batch": NETWORKS[name].batch, "channels": case.channels}
        entry["rows"] |= rows
        yield


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(chosen: argparse.Namespace, known: dict[str, Any]) -> Iterator[None]:
    """Each contender in a process of its own: what the peak of resident memory grows by once it starts."""
    for name in chosen.networks:
        case = opened(NETWORKS[name])
        names = ["training step", *contenders(case, chosen.only)]
        entry = known.setdefault("memory", {}).setdefault(name, {})
        entry["factors"] = factor_bytes(case)
        del case
        for contender in names:
            command = [sys.executable, __file__, "--child", name, contender]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                entry[contender] = int(done.stdout.split()[-1])
                print(name, contender, f"{entry[contender] / 2**20:.0f} MiB", flush=True)
            else:
                print(f"{name}: {contender} is left out: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        yield


def child(name: str, contender: str) -> None:
    case = opened(NETWORKS[name])
    works = {"training step": step} | contenders(case, [])
    small = Case(case.module, case.coupling, case.layers, [(x[:2], y[:2]) for x, y in case.data[:1]])
    bare(small)  # libraries start their threads and buffers
    case.module.zero_grad()
    reset_peak()
    before = peak()
    works[contender](case)
    print(max(0, peak() - before))


def reset_peak() -> None:
    """Let the high-water mark start at what is resident now (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak cannot be reset here; it counts what came before", file=sys.stderr)


def peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def factor_bytes(case: Case) -> int:
    """Of all Kronecker factors, as matrices in float32 (fewer are held: `curvature.gram.Lags`)."""
    factors = collected(case, "influence", 1).kronecker.values()
    return sum(4 * (f.inputs.dense().numel() + f.gradients.numel()) for f in factors)


# --- growth -----------------------------------------------------------------------------------------------------------


def plain(widths: Sequence[int]) -> AlexNet:
    return AlexNet(widths, (0, 1, len(widths) - 1), 10, 1)


GROWTH: dict[str, dict[int, Setting]] = {
    "samples": {n: Setting("alexnet5", (1, 28, 28), 10, 32, n // 32) for n in (32, 64, 128, 256)},
    "channels": {
        c: Setting(partial(plain, (c, c, c, c)), (1, 28, 28), 10, 32, 1)  # type: ignore[arg-type]
        for c in (16, 32, 64, 128)
    },
    "depth": {d: Setting(f"resnet{d}", (3, 32, 32), 10, 16, 1) for d in (20, 32, 44, 56)},
}
GROWING = ("bare", "inf-cp", "gate", "influence")


def growth(chosen: argparse.Namespace, known: dict[str, Any]) -> Iterator[None]:
    for axis, settings in ((axis, of) for axis, of in GROWTH.items() if axis in chosen.axes):
        cases = {size: opened(setting) for size, setting in settings.items()}
        works: dict[str, Callable[[Case], Any]] = {"bare": bare}
        works |= {name: partial(ours, name, POSITIONS) for name in GROWING[1:]}
        runs: dict[str, dict[str, list[float]]] = {name: {str(size): [] for size in cases} for name in works}
        for number in range(chosen.runs + 1):
            for name, work in works.items():
                for size, case in cases.items():
                    seconds = timed(work, case)["seconds"]
                    if number:
                        runs[name][str(size)].append(seconds)
        known.setdefault("growth", {})[axis] = {
            name: {"seconds": of, "exponent": exponent({int(k): statistics.median(v) for k, v in of.items()})}
            for name, of in runs.items()
        }
        print(axis, {name: round(v["exponent"], 2) for name, v in known["growth"][axis].items()}, flush=True)
        yield


def exponent(seconds: dict[int, float]) -> float:
    """The slope of log seconds over log size, by least squares."""
    return statistics.linear_regression(
        [math.log(size) for size in seconds], [math.log(s) for s in seconds.values()]
    ).slope


# --- agreement --------------------------------------------------------------------------------------------------------


def agreement(chosen: argparse.Namespace, known: dict[str, Any]) -> Iterator[None]:
    """Spearman's rank correlation of all scores of a trained network: cheaper passes against the full one."""
    from infprune import config  # noqa: PLC0415 - this part alone reads data
    from infprune.pipeline.bench import open_bench  # noqa: PLC0415
    from infprune.pipeline.stopwatch import Stopwatch  # noqa: PLC0415

    for name in chosen.configs:
        settings = config.load(name, [*chosen.word, "data.batch_size=64", f"data.calibration={AGREEING}"])
        bench = open_bench(settings, "bench", Stopwatch())
        batches = list(bench.session.calibration())
        for criterion in chosen.only or ("influence", "gate", "taylor", "inf-cp"):
            found, seconds = {}, {}
            for way, (positions, precision) in WAYS.items():
                start = clock()
                got = collect(
                    bench.dense, bench.layers, batches, needs_of([criterion]),
                    seed=0, draws=1, positions=positions, precision=precision,
                )  # fmt: skip
                seconds[way] = clock() - start
                values = score(criterion, ScoringInputs(bench.dense, bench.layers, got)).values
                found[way] = torch.cat(list(values.values()))
            ranks = {way: v.argsort().argsort().double() for way, v in found.items()}
            row = {w: float(torch.corrcoef(torch.stack([ranks["all"], r]))[0, 1]) for w, r in ranks.items()}
            kept = {w: common(found["all"], v) for w, v in found.items()}
            entry = {"rank": row, "kept": kept, "seconds": seconds}
            known.setdefault("agreement", {}).setdefault(name, {})[criterion] = entry
            print(name, criterion, entry, flush=True)
        yield


def common(a: Tensor, b: Tensor) -> float:
    """The share of the better half of all channels by `a` that is also in that by `b`."""
    half = len(a) // 2
    return len(set(a.topk(half).indices.tolist()) & set(b.topk(half).indices.tolist())) / half


WAYS: dict[str, tuple[int | None, str]] = {
    "all": (None, "float32"),
    "64 positions": (64, "float32"),
    "bf16": (None, "bf16"),
    "64 positions, bf16": (64, "bf16"),
}
AGREEING = 256

# --- pages ------------------------------------------------------------------------------------------------------------


def ratio(rows: list[dict[str, float]], samples: int = 0, usual: int = 0) -> list[float]:
    """Seconds over those of the bare pass; with `usual`, as if so many samples had been scored."""
    grown = usual / samples if usual else 1.0
    return [((r["seconds"] - r["solve"]) * grown + r["solve"]) / (r["bare"] * grown) for r in rows]


def spread(values: list[float]) -> str:
    digits = 2 if statistics.median(values) < 100 else 0
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def page(known: dict[str, Any]) -> str:
    lines = ["# What scores cost", "", *INTRODUCTION.strip().splitlines()]
    for name, entry in known.get("times", {}).items():
        lines += ["", f"## {name}", ""]
        lines += [
            f"{entry['samples']} samples in batches of {entry['batch']}, {entry['channels']:,} channels.",
            "",
            f"| contender | n | x bare pass | at {USUAL:,} samples | asked | peak MiB |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        peaks = known.get("memory", {}).get(name, {})
        for row, runs in entry["rows"].items():
            asked = ALEXNET_INFLUENCE if (name, row) == ("alexnet5", "influence") else LIMITS.get(row)
            usual = f"{statistics.median(ratio(runs, entry['samples'], USUAL)):,.2f}"
            lines.append(
                f"| {row}{MARKS.get(row, '')} | {len(runs)} | {spread(ratio(runs))} | {usual} "
                f"| {'' if asked is None or 'mobilenet' in name else asked} | {mebibytes(peaks.get(row))} |"
            )
        if peaks:
            lines += ["", measured(peaks, entry["rows"])]
    lines += compared(known.get("times", {}))
    if "growth" in known:
        lines += ["", "## Growth", "", GROWN, "", "| | " + " | ".join(GROWING) + " |", "|---" * 5 + "|"]
        lines += [
            f"| {axis} ({', '.join(of['bare']['seconds'])}) | "
            + " | ".join(f"{of[name]['exponent']:.2f}" for name in GROWING)
            + " |"
            for axis, of in known["growth"].items()
        ]
    for name, of in known.get("agreement", {}).items():
        lines += ["", f"## Agreement on {name}", "", AGREED, "", "| | " + " | ".join(WAYS) + " |", "|---" * 5 + "|"]
        for criterion, row in of.items():
            cells = [agreed(row, w) for w in WAYS]
            lines.append(f"| {criterion} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def compared(entries: dict[str, Any]) -> list[str]:
    """How many times the seconds of `influence` others take."""
    peers = (DOCUMENTED, SINGLE, CURVLINOPS, PAPER)
    lines = []
    for name, entry in entries.items():
        usual = {row: statistics.median(ratio(runs, entry["samples"], USUAL)) for row, runs in entry["rows"].items()}
        if "influence" in usual and any(p in usual for p in peers):
            cells = [f"{usual[p] / usual['influence']:,.1f}" if p in usual else "" for p in peers]
            lines.append(f"| {name} | {entry['batch']} | " + " | ".join(cells) + " |")
    head = ["", "## Others over `influence`", *COMPARED.rstrip().splitlines(), ""]
    head += ["| network | batch | " + " | ".join(peers) + " |", "|---|---:|" + "---:|" * len(peers)]
    return head + lines if lines else []


def measured(peaks: dict[str, int], timed_rows: dict[str, Any]) -> str:
    """What peaks are compared with, and those that have no row above."""
    step_, factors = peaks.get("training step", 0), peaks["factors"]
    others = {k: v for k, v in peaks.items() if k not in {*timed_rows, "training step", "factors"}}
    told = "".join(f" {name}, not timed here: {mebibytes(v)} MiB." for name, v in others.items())
    return (
        f"Training step: {mebibytes(step_)} MiB; factors (float32): {mebibytes(factors)} MiB; asked of `influence`: at "
        f"most {mebibytes(int(1.5 * step_) + factors)} MiB.{told}"
    )


def agreed(row: dict[str, dict[str, float]], way: str) -> str:
    kept = f", {row['kept'][way]:.1%}" if "kept" in row else ""
    return f"{row['rank'][way]:.4f}{kept} ({row['seconds'][way] / row['seconds']['all']:.2f})"


def mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.0f}"


INTRODUCTION = f"""
`python scripts/bench_speed.py`: seconds of each contender over those of a bare forward and backward pass (eval mode,
gradients of all weights) over the same batches, run right before it in the same process: median (least to largest).
Random images, labels and weights. CPU seconds of one thread, on a machine that is shared with other work: time taken by
others does not count, but caches are shared, so ratios of neighbours hold better than seconds. Ours: the whole of
`collect` and `score`, {POSITIONS} positions per sample (`data.positions`) unless it says all.

*At {USUAL:,} samples*: computed: the pass grows with the samples, the inversion and elimination of factors does not.
Peak: resident memory above what network and data hold, in a process of its own.
¹ scaled from {PEER_SAMPLES} samples, each a batch of its own. ² the recipe of the paper (MU eq. 6), scaled from
{CHANNELS} channels with {PRODUCTS} Hessian-vector products on single samples each to all channels with as many
products as there are samples. ³ one forward pass per batch and for each sample a backward pass through the whole
batch, as the docstring of `GroupHessianImportance` has it; scaled from {PEER_BACKWARDS} of these.
"""
COMPARED = f"""
Seconds of others over those of `influence` ({POSITIONS} positions), medians, at {USUAL:,} samples (computed, as above);
asked: {TIMES_FASTER[DOCUMENTED]} for Torch-Pruning's Hessian, {TIMES_FASTER[PAPER]:,} for the paper's recipe per scored
channel. Who follows the documentation of Torch-Pruning gets the first column, which grows with the batch; who feeds
single samples, as it nowhere says, gets the second: there 15 is out of reach, as it costs but a few bare passes.
curvlinops builds the factors of all layers and inverts none.
"""
GROWN = "Exponent of a power law in seconds, by least squares over the sizes in brackets (n medians)."
AGREED = (
    f"Trained weights, {AGREEING} calibration samples: rank correlation (Spearman) of the scores of all channels with "
    "those from all positions in float32, the share of the better half of the channels that both keep, "
    "and in brackets the seconds of the pass over that one's (one run)."
)
MARKS = {SINGLE: " ¹", PAPER: " ²", DOCUMENTED: " ³"}


def write(known: dict[str, Any]) -> None:
    packages = ("torch", "torchvision", "torch-pruning", "curvlinops-for-pytorch")
    known["versions"] = {p: version(p) for p in packages}
    known["threads"] = torch.get_num_threads()
    atomic_write(RESULTS / "speed.json", json.dumps(known, indent=1) + "\n")
    atomic_write(RESULTS / "speed.md", page(known))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words: Any = lambda text: [w for w in text.split(",") if w]  # noqa: E731
    parser.add_argument("--parts", type=words, default=list(PARTS))
    parser.add_argument("--networks", type=words, default=list(NETWORKS))
    parser.add_argument("--axes", type=words, default=list(GROWTH), help="of growth")
    parser.add_argument("--only", type=words, default=[], help="contenders, comma-separated")
    parser.add_argument("--configs", type=words, default=["digits"], help="trained networks, for agreement")
    parser.add_argument("--word", action="append", default=[], help="KEY=VALUE of their configuration")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.child:
        child(*chosen.child)
        return
    path = RESULTS / "speed.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not chosen.dry else {}
    for part in chosen.parts:
        for _ in {"times": times, "memory": memory, "growth": growth, "agreement": agreement}[part](chosen, known):
            if not chosen.dry:
                write(known)
    print(page(known))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
