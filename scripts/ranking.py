"""Which score ranks channels as retraining does: every channel of a small network removed, and all the rest retrained.

    python scripts/ranking.py data.root=PATH

Two strided convolutions (16 and 24 channels) and a linear layer on MNIST at half its size, 1,000 training images,
float64, GELU (L-BFGS stops at the kinks of ReLU), squared penalty 1e-3. The network is trained by L-BFGS to a gradient
of 1e-5; then the weights that read a channel are pinned at zero, and everything else is trained on from there to the
same gradient. The truth is the change of the regularised training loss. Spearman's correlation of each criterion with
it, over all channels and within each layer. Writes docs/results/ranking.md and ranking.json; an interrupted run goes on
where it was.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from infprune import config
from infprune.coupling.couple import couple
from infprune.coupling.groups import Coupling
from infprune.curvature import regularised
from infprune.curvature.algebra import Damped
from infprune.curvature.kfac import ekfac, kfac
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.files import atomic_write
from infprune.influence.block import block
from infprune.influence.groups import Group, channel_groups
from infprune.influence.printed import printed
from infprune.influence.quadratic import Quadratic
from infprune.pipeline.session import open_session
from infprune.pipeline.store import Store
from infprune.scores import SCORES
from infprune.scores.contract import ScoringInputs
from infprune.scores.measure import collect, needs_of, score
from infprune.solvers.cg import ConjugateGradients, jacobi

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RIDGE, SAMPLES, TOLERANCE, EVALUATIONS = 1e-3, 1000, 1e-5, 6000


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    ).double()


def minimised(objective: Objective, start: Tensor, pinned: Tensor | None = None) -> tuple[Tensor, float, float]:
    """L-BFGS on the free entries, to the tolerance: theta, loss, norm of the free gradient."""
    free = torch.ones_like(start)
    if pinned is not None:
        free[pinned] = 0
    theta = (start * free).clone().requires_grad_()
    used = 0
    norm = float("inf")
    while used < EVALUATIONS and norm > TOLERANCE:
        optimizer = torch.optim.LBFGS(
            [theta], max_iter=200, history_size=50, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            nonlocal used
            used += 1
            ((x, y),) = objective.batches
            loss = F.cross_entropy(objective.outputs(theta, x), y) + 0.5 * objective.ridge * theta.square().sum()
            theta.grad = torch.autograd.grad(loss, theta)[0] * free
            return float(loss.detach())

        optimizer.step(closure)
        norm = float((objective.gradient(theta.detach()) * free).norm())
    return theta.detach(), objective.value(theta.detach()), norm


def ranked(net: nn.Module, coupling: Coupling, objective: Objective, groups: list[Group]) -> dict[str, list[float]]:
    """Every criterion that this network allows, and single removals in several curvatures."""
    layers = coupling.prunable
    names = [name for name in SCORES if name != "bn-scale"]
    statistics = collect(net, layers, objective.batches, needs_of(names), seed=0, draws=1)
    found = {}
    for name in names:
        values = score(name, ScoringInputs(net, layers, statistics, None, 0)).values
        found[name] = torch.cat([values[layer.name] for layer in layers]).tolist()
    theta = objective.theta
    whole = Quadratic(regularised("ggn", objective), theta, ConjugateGradients(1e-4, 500), RIDGE)
    found["single removal, whole GGN, exact block"] = [block(whole, g.positions).change for g in groups]
    found["single removal, whole GGN, as printed"] = [printed(whole, g.positions).change for g in groups]
    for name, make in (("KFAC", kfac), ("EKFAC", ekfac)):
        operator = make(objective).damped(RIDGE)
        layered = Quadratic(operator, theta, ConjugateGradients(1e-6, 500, jacobi), RIDGE)
        found[f"single removal, {name}, exact block"] = [block(layered, g.positions).change for g in groups]
    hessian = Quadratic(Damped(regularised("hessian", objective), 0.0), theta, ConjugateGradients(1e-4, 500))
    solved = [block(hessian, g.positions) for g in groups]
    if all(r.outcome == "converged" for r in solved):
        found["single removal, true Hessian, exact block"] = [r.change for r in solved]
    return found


def main() -> None:
    settings = config.load("mnist-alexnet5", ["model.checkpoint=random", *sys.argv[1:]])
    session = open_session(settings, "ranking")
    train = session.splits.train
    xs, ys = zip(*[train[i] for i in range(SAMPLES)], strict=True)
    x, y = F.avg_pool2d(torch.stack(xs).double(), 2), torch.tensor(ys)
    net = network().eval()
    objective = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=RIDGE)
    store = Store(session.folder / "ranking-measurements.json", f"{SAMPLES} {RIDGE} {TOLERANCE}", resume=True)
    if store.get("dense") is None:
        theta, value, norm = minimised(objective, objective.theta)
        store.put("dense", {"theta": theta.tolist(), "value": value, "norm": norm})
    dense = store.get("dense")
    objective.space.load(net, torch.tensor(dense["theta"], dtype=torch.float64))
    print(f"dense: loss {dense['value']:.6f}, gradient {dense['norm']:.1e}", flush=True)
    coupling = couple(net, x[:2])
    groups = [g for layer in coupling.prunable for g in channel_groups(objective.space, layer)]
    for group in groups:
        if store.get(group.name) is None:
            _, value, norm = minimised(objective, objective.theta, group.positions)
            store.put(group.name, {"change": value - dense["value"], "norm": norm})
            print(f"{group.name}: {value - dense['value']:.3e}, gradient {norm:.1e}", flush=True)
    truth = [store.get(group.name) for group in groups]
    write(ranked(net, coupling, objective, groups), truth, [g.name for g in groups], dense)


def write(
    found: dict[str, list[float]], truth: list[dict[str, float]], names: list[str], dense: dict[str, Any]
) -> None:
    actual = [t["change"] for t in truth]
    layers = sorted({name.rpartition("[")[0] for name in names})
    rows = []
    for name, values in found.items():
        row = {"criterion": name, "all": float(spearmanr(values, actual).statistic)}
        for layer in layers:
            at = [i for i, n in enumerate(names) if n.startswith(f"{layer}[")]
            row[layer] = float(spearmanr([values[i] for i in at], [actual[i] for i in at]).statistic)
        rows.append(row)
    rows.sort(key=lambda r: -r["all"])
    counts = {layer: sum(n.startswith(f"{layer}[") for n in names) for layer in layers}
    lines = [
        "# Which score ranks channels as retraining does",
        "",
        "`python scripts/ranking.py data.root=PATH`: Spearman's correlation with the change of the regularised",
        f"training loss once a channel has gone and all other weights were retrained ({len(names)} channels of two",
        f"convolutions and a linear layer, {SAMPLES} MNIST images of 14 x 14, penalty {RIDGE}; one network, one seed).",
        f"Gradient norm of the dense network {dense['norm']:.0e}, of the retrained ones at most",
        f"{max(t['norm'] for t in truth):.0e}.",
        f"Loss changes from {min(actual):.1e} to {max(actual):.1e} nats.",
        "",
        "| criterion | all | " + " | ".join(f"layer {n} ({c})" for n, c in counts.items()) + " |",
        "|---|---:|" + "---:|" * len(layers),
    ]
    lines += [
        f"| {r['criterion']} | {r['all']:.3f} | " + " | ".join(f"{r[n]:.3f}" for n in layers) + " |" for r in rows
    ]
    atomic_write(RESULTS / "ranking.md", "\n".join(lines) + "\n")
    content = {"channels": names, "change": actual, "gradient": [t["norm"] for t in truth], "scores": found}
    atomic_write(RESULTS / "ranking.json", json.dumps(content, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
