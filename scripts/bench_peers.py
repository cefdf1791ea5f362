"""Accuracy right after pruning, without retraining: infprune's criteria and scopes against Torch-Pruning's.

    pip install torch-pruning
    python scripts/bench_peers.py digits
    python scripts/bench_peers.py mnist-alexnet5 data.root=PATH model.checkpoint=FILE
    python scripts/bench_peers.py cifar10-resnet20 data.root=PATH model.checkpoint=FILE --seeds 1

The same weights, calibration samples, prunable channels and MACs (at most 1/1.5, 1/2 and 1/3 of the dense ones) for
all. Test accuracy of the network as cut, with its batch norms recalibrated on the calibration samples, compensated
(least squares), and distilled on the same samples (the last two: infprune only). Seeds draw the calibration samples. An
interrupted run goes on where it was.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import nn
from torch.nn import functional as F

from infprune import compensation, config, cost
from infprune.coupling.groups import Role
from infprune.evaluation import evaluate
from infprune.files import atomic_write
from infprune.pipeline import cutting
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.score import scored
from infprune.pipeline.shrink import distilled
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from infprune.selection import Budget, Limits

mpl.use("Agg")

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SPEEDUPS = (1.5, 2.0, 3.0)
OURS = (
    ("influence", "calibrated"),
    ("gate", "calibrated"),
    ("magnitude", "calibrated"),
    ("random", "calibrated"),
    ("influence", "global"),
    ("gate", "global"),
    ("taylor", "global"),
    ("influence", "layer"),
    ("magnitude", "layer"),
    ("random", "layer"),
)
PEERS = (
    ("magnitude", "layer"),
    ("magnitude", "global"),
    ("bn-scale", "global"),
    ("taylor", "global"),
    ("hessian", "global"),
    ("random", "layer"),
)
HESSIAN_SAMPLES = 256  # one backward pass each
STAGES = ("cut", "recalibrated", "compensated", "distilled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="comma-separated parts of row names")
    chosen = parser.parse_intermixed_args()
    settings = config.load(chosen.config, ["prune.rate=0.5", *chosen.words])
    bench = open_bench(settings, "bench", Stopwatch())
    store = Path(f"runs/bench-{chosen.config}.json")
    found: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for key, measured in measurements(bench, chosen.seeds, chosen.only.split(","), found):
        found[key] = measured
        print(key, {k: round(v, 4) for k, v in measured.items()}, flush=True)
        atomic_write(store, json.dumps(found, indent=1))
    if "dense" not in found:
        found["dense"] = evaluate(bench.dense, bench.test).accuracy
        atomic_write(store, json.dumps(found, indent=1))
    write(chosen, bench, found)


def measurements(
    bench: Bench, seeds: int, only: list[str], found: dict[str, Any]
) -> Iterator[tuple[str, dict[str, float]]]:
    for seed in range(seeds):
        rows = [("infprune", *row) for row in OURS] + [("torch-pruning", *row) for row in PEERS]
        for owner, criterion, scope in rows:
            name = f"{owner} {criterion} {scope}"
            keys = {speedup: f"{name}/{speedup}/{seed}" for speedup in SPEEDUPS}
            missing = {speedup: key for speedup, key in keys.items() if key not in found}
            if not missing or not any(part in name for part in only):
                continue
            make = ours if owner == "infprune" else peers
            try:
                for speedup, measured in make(bench, criterion, scope, seed, list(missing)):
                    yield missing[speedup], measured
            except RuntimeError as error:  # the peer's cut network does not run
                print(f"{name}: left out, {error}", flush=True)


def ours(
    bench: Bench, criterion: str, scope: str, seed: int, speedups: list[float]
) -> Iterator[tuple[float, dict[str, float]]]:
    prune = bench.session.config.prune.model_copy(update={"scope": scope})
    settings = bench.session.config.model_copy(update={"prune": prune})
    session = type(bench.session)(settings, bench.session.splits, bench.session.device, bench.session.folder)
    own = Bench(session, bench.dense, bench.coupling, bench.layers)
    started = time.perf_counter()
    scores = scored(own, (criterion,), seed, Silent())[criterion]
    seconds = {"score_s": time.perf_counter() - started}
    dense = cost.count(bench.coupling).macs
    how = cutting.Correction("ls+bn", None, settings.data.positions)
    for speedup in speedups:
        started = time.perf_counter()
        made = cutting.cut(
            bench.dense,
            bench.coupling,
            bench.layers,
            scores,
            Budget(macs=1 / speedup),
            Limits(scope, prune.floor),
            session.example(8),
        )
        seconds["cut_s"] = time.perf_counter() - started
        calibration = session.calibration(seed)
        started = time.perf_counter()
        fitted = cutting.compensate(bench.dense, made, bench.coupling, how, calibration, bench.validation, Silent())
        seconds["compensate_s"] = time.perf_counter() - started
        macs = cost.count(bench.coupling, made.plan.kept).macs / dense
        stages = {"macs": macs, "compensated": evaluate(fitted, bench.test).accuracy}
        started = time.perf_counter()
        followed = distilled(own, fitted, seed, Silent())
        seconds["distill_s"] = time.perf_counter() - started
        stages["distilled"] = evaluate(followed, bench.test).accuracy
        yield speedup, stages | uncompensated(made.module, bench, seed) | seconds


def uncompensated(small: nn.Module, bench: Bench, seed: int) -> dict[str, float]:
    found = {"cut": evaluate(small, bench.test).accuracy}
    if compensation.has_statistics(small):
        recalibrated = copy.deepcopy(small)
        compensation.recalibrate(recalibrated, bench.session.calibration(seed))
        found["recalibrated"] = evaluate(recalibrated, bench.test).accuracy
    return found


# --- Torch-Pruning ----------------------------------------------------------------------------------------------------


def peers(
    bench: Bench, criterion: str, scope: str, seed: int, speedups: list[float]
) -> Iterator[tuple[float, dict[str, float]]]:
    import torch_pruning as tp  # noqa: PLC0415 - only these rows need it

    made: dict[str, Any] = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "bn-scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "hessian": tp.importance.GroupHessianImportance,
        "random": tp.importance.RandomImportance,
    }
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in bench.dense.modules())  # noqa: SLF001
    if criterion == "bn-scale" and not norms:
        return
    producers = {s.tensor.rpartition(".")[0] for layer in bench.layers for s in layer.having(Role.PRODUCER)}
    example = bench.session.example(2)
    started = time.perf_counter()
    base, importance = copy.deepcopy(bench.dense), made[criterion]()
    if criterion in ("taylor", "hessian"):
        gradients(base, bench, seed, importance if criterion == "hessian" else None)
    seconds = time.perf_counter() - started

    def pruned(ratio: float) -> nn.Module:
        torch.manual_seed(seed)
        network = copy.deepcopy(base)
        for old, new in zip(base.parameters(), network.parameters(), strict=True):
            new.grad = None if old.grad is None else old.grad.clone()
        if criterion == "hessian":
            squares = dict(zip(base.parameters(), network.parameters(), strict=True))
            importance._accu_grad = {squares[p]: g for p, g in accumulated.items()}  # noqa: SLF001 - used up by a step
            importance._counter = {squares[p]: n for p, n in counts.items()}  # noqa: SLF001
        kept = [
            m
            for name, m in network.named_modules()
            if isinstance(m, nn.modules.conv._ConvNd | nn.Linear) and name not in producers  # noqa: SLF001
        ]
        pruner = tp.pruner.BasePruner(
            network, example, importance, pruning_ratio=ratio, global_pruning=scope == "global", ignored_layers=kept
        )
        pruner.step()
        return network

    accumulated, counts = (dict(getattr(importance, name, {})) for name in ("_accu_grad", "_counter"))
    dense = macs_of(bench.dense, example)
    for speedup in speedups:
        started = time.perf_counter()
        low, high = 0.0, 0.99
        for _ in range(9):
            middle = (low + high) / 2
            low, high = (low, middle) if macs_of(pruned(middle), example) <= dense / speedup else (middle, high)
        small = pruned(high)
        took = {"score_s": seconds, "cut_s": time.perf_counter() - started}
        yield speedup, {"macs": macs_of(small, example) / dense} | uncompensated(small, bench, seed) | took


def gradients(network: nn.Module, bench: Bench, seed: int, hessian: Any) -> None:
    """What Torch-Pruning's Taylor and Hessian scores read: mean gradients, and squares of single samples' ones."""
    network.zero_grad()
    seen = 0
    for x, y in bench.session.calibration(seed):
        if hessian is None:
            F.cross_entropy(network(x), y, reduction="sum").backward()
            continue
        if seen == 0:
            hessian.zero_grad()
        for one, label in zip(x, y, strict=True):
            if seen == HESSIAN_SAMPLES:
                return
            network.zero_grad()
            F.cross_entropy(network(one[None]), label[None]).backward()
            hessian.accumulate_grad(network)
            seen += 1


@torch.no_grad()
def macs_of(network: nn.Module, x: Any) -> int:
    """Multiply-accumulates of convolutions and linear layers per sample, counted while it runs."""
    total = 0

    def visit(module: Any, _: Any, y: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        positions = y.numel() // len(y) // weight.shape[0]
        total += positions * weight.numel()

    handles = [
        m.register_forward_hook(visit)
        for m in network.modules()
        if isinstance(m, nn.modules.conv._ConvNd | nn.Linear)  # noqa: SLF001
    ]
    network(x)
    for handle in handles:
        handle.remove()
    return total


# --- table and figure -------------------------------------------------------------------------------------------------


def write(chosen: argparse.Namespace, bench: Bench, found: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    names = list(dict.fromkeys(key.rsplit("/", 2)[0] for key in found if "/" in key))
    head = " | ".join(f"{1 / s:.0%} MACs: " + " / ".join(STAGES) for s in SPEEDUPS)
    lines = [f"| row | {head} | seconds |", "|---" * (len(SPEEDUPS) + 2) + "|"]
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name in names:
        cells, points, seconds = [], [], 0.0
        for speedup in SPEEDUPS:
            runs = [found[k] for k in found if k.startswith(f"{name}/{speedup}/")]
            stages = " / ".join(spread([r[stage] for r in runs if stage in r]) for stage in STAGES)
            cells.append(f"{stages} @ {100 * statistics.mean(r['macs'] for r in runs):.1f}" if runs else "-")
            best = [next(r[stage] for stage in reversed(STAGES) if stage in r) for r in runs]
            if best:
                points.append((1 / speedup, statistics.mean(best)))
                seconds = max(seconds, statistics.mean(sum(v for k, v in r.items() if k.endswith("_s")) for r in runs))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} |")
        style = "-" if name.startswith("infprune") else ":"
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
    axes.axhline(found["dense"], color="gray", linewidth=0.8)
    axes.set(xlabel="MACs kept", ylabel="test accuracy, nothing retrained", title=chosen.config)
    axes.legend(fontsize=6, ncols=2)
    figure.tight_layout()
    target = RESULTS / f"peers-{chosen.config}"
    figure.savefig(target.with_suffix(".png"), dpi=130)
    samples = min(bench.session.config.data.calibration, len(bench.session.splits.train))
    text = [
        f"# {chosen.config}: accuracy without retraining",
        f"`python scripts/bench_peers.py {chosen.config} ... --seeds {chosen.seeds}`",
        (
            f"Dense {100 * found['dense']:.2f}. Test accuracy in % with at most 67, 50 and 33 % of the MACs, "
            f"{samples} calibration samples: as cut / batch norms recalibrated / least squares / then distilled on "
            "the same samples, without labels (the last two: infprune's rows; where the network has no batch norm, "
            "nothing is recalibrated) @ MACs kept in %. Mean (standard deviation) "
            f"over {chosen.seeds} draws of the calibration samples. Layer: the same share of every layer; global: one "
            "ranking; calibrated: one ranking of measured losses. Seconds: score, cut (Torch-Pruning: bisection of its "
            f"ratio included), least squares and distillation, on a machine with other work. torch "
            f"{torch.__version__.partition('+')[0]}, torch-pruning {version('torch-pruning')} "
            f"(Hessian: {HESSIAN_SAMPLES} samples), two CPU cores."
        ),
        "\n".join(lines),
    ]
    target.with_suffix(".md").write_text("\n\n".join(text) + "\n")
    target.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n\n".join(text))


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = f" ({100 * statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
