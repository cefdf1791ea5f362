"""Is the local approximation of influence what retraining without a sample gives? By model, depth, width and size.

    python scripts/leave_one_out.py --root PATH

Removing sample z of N changes the loss of a test sample by about grad L(z_test)^T H^-1 grad L(z) / N. The truth is
found by retraining without z from the minimum of all samples, to a gradient of 1e-8 (`influence/leave_one_out.py`), in
float64, squared penalty on all parameters.

Part 1: logistic regression of two digits, 5,000 training and 500 test samples. Part 2: networks of GELU layers of every
depth and width, ten digits at 7 x 7 pixels; trained by L-BFGS and Newton's method to a minimum. Which samples: as many
of the most influential (largest predicted change of the parameters) as of all others, drawn at random. `--scratch K`
also trains without K of the samples from the initial weights: such a training ends in another minimum where there are
several.

Writes docs/results/leave-one-out.md, .json and .png; an interrupted run goes on where it was.
"""

import argparse
import io
import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from samples import mnist
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.curvature import regularised
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.files import atomic_write
from infprune.influence.leave_one_out import leave_one_out
from infprune.influence.retraining import minimise
from infprune.models import MODELS
from infprune.pipeline.store import Store
from infprune.solvers.direct import Cholesky

RESULTS = Path(__file__).parents[1] / "docs" / "results"
LOGISTIC = "logistic regression"
HEADS = (
    "| network | parameters | n | pairs, all | pairs, top | pairs, rest | movement, top | movement, rest "
    "| direction, top | direction, rest | mean loss, costly | mean loss, cheap "
    "| rank of mean loss | from scratch, seed 0 | test accuracy (%) |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds MNIST/raw")
    parser.add_argument("--digits", default="3,5", help="of the logistic regression")
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--removed", type=int, default=200, help="samples removed from the logistic regression's")
    parser.add_argument("--depths", default="1,2,3", help="hidden layers")
    parser.add_argument("--widths", default="2,4,8")
    parser.add_argument("--small", type=int, default=300, help="training samples of the networks")
    parser.add_argument("--small-removed", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="initial weights")
    parser.add_argument(
        "--scratch", type=int, default=6, help="samples of each network of seed 0 removed from the start"
    )
    parser.add_argument("--ridge", type=float, default=1e-3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    identity = f"leave-one-out {chosen.digits} {chosen.train} {chosen.test} {chosen.small} {chosen.ridge}"
    store = Store(Path("runs/leave-one-out.json"), identity, resume=True)
    found = [measured(store, LOGISTIC, 0, lambda: of_logistic(chosen), chosen.removed, 0)]
    for depth in map(int, chosen.depths.split(",")):
        for width in map(int, chosen.widths.split(",")):
            for seed in range(chosen.seeds):
                start = lambda d=depth, w=width, s=seed: of_network(chosen, d, w, s)  # noqa: E731
                scratch = chosen.scratch if seed == 0 else 0
                name = f"depth {depth}, width {width}"
                found.append(measured(store, name, seed, start, chosen.small_removed, scratch))
    write(chosen, found)


def of_logistic(chosen: argparse.Namespace) -> tuple[Objective, Objective]:
    digits = [int(d) for d in chosen.digits.split(",")]
    x, y, xt, yt = mnist(chosen.root, chosen.train, chosen.test, classes=digits)
    return objectives(MODELS["logistic_regression"](784, 2).double(), (x, y), (xt, yt), chosen.ridge)


def of_network(chosen: argparse.Namespace, depth: int, width: int, seed: int) -> tuple[Objective, Objective]:
    x, y, xt, yt = mnist(chosen.root, chosen.small, 100, size=7)
    torch.manual_seed(seed)
    sizes = [49, *[width] * depth, 10]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.GELU())]
    return objectives(nn.Sequential(nn.Flatten(), *layers[:-1]).double(), (x, y), (xt, yt), chosen.ridge)


def objectives(
    net: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], ridge: float
) -> tuple[Objective, Objective]:
    of_train = Objective(net, ParameterSpace.of(net), [train], ridge=ridge)
    return of_train, Objective(net, of_train.space, [test])


def trained(objective: Objective, start: Tensor, *, polished: bool = True) -> Tensor:
    """L-BFGS to a gradient of 1e-6, then Newton's method to one of 1e-10 if `polished`."""
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=1500, history_size=30, line_search_fn="strong_wolfe")
    optimizer.param_groups[0].update(tolerance_grad=1e-6, tolerance_change=0)

    def closure() -> float:
        ((x, y),) = objective.batches
        loss = F.cross_entropy(objective.outputs(theta, x), y) + 0.5 * objective.ridge * theta.square().sum()
        theta.grad = torch.autograd.grad(loss, theta)[0]
        return float(loss.detach())

    optimizer.step(closure)
    if not polished:
        return theta.detach()
    return minimise(objective, theta.detach(), tolerance=1e-10, max_iterations=20).theta


def measured(store: Store, name: str, seed: int, start: Any, removed: int, scratch: int) -> dict[str, Any]:
    """Every removal of one network; kept on disk as one entry."""
    key = f"{name}/{seed}/{removed}/{scratch}"
    if store.get(key) is None:
        objective, test = start()
        store.put(key, compared(objective, test, removed, scratch))
        print(key, store.get(key).get("message") or "done", flush=True)
    return {"model": name, "seed": seed, **store.get(key)}


def compared(objective: Objective, test: Objective, removed: int, scratch: int) -> dict[str, Any]:
    """Predicted and actual changes of parameters and of each test loss, for each sample removed."""
    initial, (train,) = objective.theta, objective.batches
    theta, count = trained(objective, initial), len(train[1])
    curvature = Cholesky().init(regularised("hessian", objective, theta))
    gradients = torch.stack([o.gradient(theta) for o in test_samples(test)], 1)
    solved = curvature.solve(gradients)
    if not solved.converged:
        return {"message": f"no minimum with a positive definite Hessian: {solved.message}", "rows": []}
    predicted = objective.slopes(theta, solved.value) / count
    moves = torch.stack([curvature.solve(o.gradient(theta)).value for o in test_samples(objective)], 1) / count
    order = moves.norm(dim=0).argsort(descending=True)
    top, rest = order[: removed // 2], order[removed // 2 :]
    others = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[: removed - len(top)]]
    losses, rows = test_losses(test, theta), []
    for place, i in enumerate([*top.tolist(), *others.tolist()]):
        found = leave_one_out(objective, theta, i, curvature, tolerance=1e-8, max_iterations=30)
        change, move = test_losses(test, found.theta) - losses, found.theta - theta
        row = {"top": place < len(top), "converged": found.converged, "newton": found.newton}
        row["predicted"] = [float(f"{v:.6g}") for v in predicted[i].tolist()]
        row["actual"] = [float(f"{v:.6g}") for v in change.tolist()]
        row["move_error"] = float((moves[:, i] - move).norm() / move.norm())
        row["move"] = float(move.norm())
        row["move_r"] = correlation(moves[:, i], move)
        if scratch and (place < scratch // 2 or 0 <= place - len(top) < scratch - scratch // 2):
            again = trained(without(objective, i), initial, polished=False)
            row["scratch"] = [float(f"{v:.6g}") for v in (test_losses(test, again) - losses).tolist()]
        rows.append(row)
    accuracy = float((test.outputs(theta, test.batches[0][0]).argmax(1) == test.batches[0][1]).double().mean())
    told = {"gradient": float(objective.gradient(theta).norm()), "loss": objective.value(theta), "accuracy": accuracy}
    return {"parameters": len(theta), "n": count, "tests": len(losses), **told, "rows": rows}


def test_samples(objective: Objective) -> list[Objective]:
    """Each sample's loss, without penalty."""
    ((x, y),) = objective.batches
    return [Objective(objective.module, objective.space, [(x[i : i + 1], y[i : i + 1])]) for i in range(len(y))]


def test_losses(test: Objective, theta: Tensor) -> Tensor:
    ((x, y),) = test.batches
    with torch.no_grad():
        return test.losses(test.outputs(theta, x), y)


def without(objective: Objective, i: int) -> Objective:
    ((x, y),) = objective.batches
    kept = torch.arange(len(y)) != i
    ridge = objective.ridge * len(y) / (len(y) - 1)
    return Objective(objective.module, objective.space, [(x[kept], y[kept])], ridge=ridge)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def summarised(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Agreement over the removals of one architecture: mean over seeds of each figure."""
    told: dict[str, list[float]] = {}
    for run in runs:
        rows = run["rows"]
        weighed = sorted(rows, key=lambda r: -abs(statistics.mean(r["predicted"])))
        for group, some in (
            ("all", rows),
            ("top", [r for r in rows if r["top"]]),
            ("rest", [r for r in rows if not r["top"]]),
            ("costly", weighed[: len(rows) // 2]),
            ("cheap", weighed[len(rows) // 2 :]),
        ):
            p, a = (torch.tensor([r[k] for r in some], dtype=torch.float64) for k in ("predicted", "actual"))
            told.setdefault(f"pairs, {group}", []).append(correlation(p.flatten(), a.flatten()))
            told.setdefault(f"mean loss, {group}", []).append(correlation(p.mean(1), a.mean(1)))
            told.setdefault(f"rank, {group}", []).append(float(spearmanr(p.mean(1), a.mean(1)).statistic))
            told.setdefault(f"move, {group}", []).append(statistics.median(r["move_error"] for r in some))
            told.setdefault(f"move r, {group}", []).append(statistics.median(r["move_r"] for r in some))
        again = [r for r in rows if "scratch" in r]
        if again:
            p, a = (torch.tensor([r[k] for r in again], dtype=torch.float64) for k in ("predicted", "scratch"))
            told["scratch"] = [correlation(p.flatten(), a.flatten())]
            told["scratches"] = [len(again)]
    return {k: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for k, v in told.items()}


def write(chosen: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    models = {name: [r for r in found if r["model"] == name] for name in dict.fromkeys(r["model"] for r in found)}
    usable = {name: [r for r in runs if r["rows"]] for name, runs in models.items()}
    table = {name: summarised(runs) for name, runs in usable.items() if runs}
    command = (
        f"python scripts/leave_one_out.py --root PATH --digits {chosen.digits} --train {chosen.train} "
        f"--test {chosen.test} --removed {chosen.removed} --depths {chosen.depths} --widths {chosen.widths} "
        f"--small {chosen.small} --small-removed {chosen.small_removed} --seeds {chosen.seeds} "
        f"--scratch {chosen.scratch} --ridge {chosen.ridge:g}"
    )
    log = table[LOGISTIC]
    lines = [
        "# The local approximation against leave-one-out retraining",
        "",
        f"`{command}`",
        "",
        "Correlation of the predicted with the true change of test losses when one training sample is removed and",
        "the network retrained from where it was, to a gradient of 1e-8; float64, penalty on all parameters.",
        "`top`: half of the removed samples, those of all samples that by prediction move the parameters most;",
        "`rest`: drawn from all others. Pairs: over every removed sample and every test sample. Movement:",
        "|predicted - true| / |true| of the parameters' change, median over removals; direction: the correlation of",
        "the two changes, median over removals. Costly: the half of the removals with the largest predicted change of",
        "the mean test loss, cheap: the others. Networks: mean over seeds (standard deviation).",
        "",
        f"## Logistic regression, digits {chosen.digits.replace(',', ' and ')}",
        "",
        f"{chosen.train:,} training and {chosen.test} test samples, {usable[LOGISTIC][0]['parameters']} parameters,",
        f"{chosen.removed} removals: correlation over pairs **{log['pairs, all'][0]:.4f}**",
        f"(top {log['pairs, top'][0]:.4f}, rest {log['pairs, rest'][0]:.4f}), of the mean test loss",
        f"{log['mean loss, all'][0]:.4f} (rest {log['mean loss, rest'][0]:.4f}). Asked for: at least .88.",
        "",
        "## Depth and width",
        "",
        f"{chosen.small} training and 100 test samples of ten digits, 7 x 7 pixels; {chosen.small_removed} removals",
        f"for each of {chosen.seeds} initial weights; networks that came to no minimum with a positive definite",
        "Hessian are left out (`n` counts the others).",
        "",
        HEADS,
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, t in table.items():
        runs = usable[name]
        again = f"{t['scratch'][0]:.2f} ({t['scratches'][0]:.0f} removals)" if "scratch" in t else "-"
        keys = ("pairs, all", "pairs, top", "pairs, rest", "move, top", "move, rest")
        keys += ("move r, top", "move r, rest", "mean loss, costly", "mean loss, cheap", "rank, all")
        cells = [f"{t[k][0]:.3f} ({t[k][1]:.3f})" if len(runs) > 1 else f"{t[k][0]:.3f}" for k in keys]
        accuracy = 100 * statistics.mean(r["accuracy"] for r in runs)
        lines.append(
            f"| {name} | {runs[0]['parameters']:,} | {len(runs)} of {len(models[name])} | "
            + " | ".join(cells)
            + f" | {again} | {accuracy:.1f} |"
        )
    every = [r for runs in usable.values() for run in runs for r in run["rows"]]
    lines += [
        "",
        f"Of {len(every):,} retrainings {sum(not r['converged'] for r in every)} did not reach the tolerance; in",
        f"{sum(r['newton'] for r in every)} Newton's method had to take over from the chord steps, which can end in",
        "another minimum.",
        "",
        *verdict(table),
        "",
        "![predicted against true, and agreement by depth and width](leave-one-out.png)",
    ]
    atomic_write(chosen.output / "leave-one-out.md", "\n".join(lines) + "\n")
    content = {"command": command, "table": table, "left_out": {n: len(models[n]) - len(usable[n]) for n in models}}
    atomic_write(chosen.output / "leave-one-out.json", json.dumps(content, indent=1))
    atomic_write(chosen.output / "leave-one-out.png", drawn(usable, table, chosen))
    print("\n".join(lines))


def verdict(table: dict[str, Any]) -> list[str]:
    """What the table says about the slides' claim, counted."""

    def of(names: list[str]) -> str:
        return f"{len(names)} of {len(table)} models" + (
            f" ({'; '.join(names)})" if 0 < len(names) < len(table) else ""
        )

    better, turned, costly = (
        [name for name, t in table.items() if t[f"{kind}, {first}"][0] > t[f"{kind}, {second}"][0]]
        for kind, first, second in (
            ("pairs", "top", "rest"),
            ("move r", "top", "rest"),
            ("mean loss", "costly", "cheap"),
        )
    )
    return [
        "Is the approximation better for the most influential samples? Of those that by prediction change the mean",
        f"test loss most (costly), the correlation with the truth is higher in {of(costly)}; a part of that",
        "is their wider range. Of those that move the parameters most (top), the correlation over pairs is above that",
        f"of the rest in {of(better)}, and that of the parameters' change in {of(turned)}.",
        "What moves the parameters most is also what a quadratic describes worst (see movement). Few removals, a few",
        "initial weights and small networks: the table orders models, it does not settle the question for large ones.",
    ]


def drawn(usable: dict[str, Any], table: dict[str, Any], chosen: argparse.Namespace) -> bytes:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for top, colour in ((False, "#0072B2"), (True, "#D55E00")):
        rows = [r for r in usable[LOGISTIC][0]["rows"] if r["top"] == top]
        pairs = [(statistics.mean(r["actual"]), statistics.mean(r["predicted"])) for r in rows]
        left.scatter(*zip(*pairs, strict=True), s=9, color=colour, label="most influential" if top else "others")
    left.axline((0, 0), slope=1, color="black", linewidth=0.7)
    left.set(xlabel="true change of the mean test loss (nats)", ylabel="predicted", title=LOGISTIC)
    left.legend(fontsize=8)
    widths = [int(w) for w in chosen.widths.split(",")]
    for depth, colour in zip(chosen.depths.split(","), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False):
        names = [(w, f"depth {depth}, width {w}") for w in widths if f"depth {depth}, width {w}" in table]
        for axis, kind in ((middle, "pairs"), (right, "move")):
            for group, style in (("top", "-o"), ("rest", "--s")):
                values = [table[n][f"{kind}, {group}"] for _, n in names]
                axis.errorbar(
                    [w for w, _ in names], [m for m, _ in values], [s for _, s in values], fmt=style, color=colour,
                    label=f"{depth} hidden, {group}", ms=4, capsize=2,
                )  # fmt: skip
    middle.set(xscale="log", xlabel="width", ylabel="correlation with the truth, test losses")
    right.set(xscale="log", yscale="log", xlabel="width", ylabel="relative error of the parameters' change")
    right.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    main()
