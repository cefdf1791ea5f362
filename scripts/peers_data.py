"""Influence values of pyDVL and dattri against ours on the same model, and the time they take.

    pip install pydvl dattri        (not dependencies of infprune; pyDVL also wants dask, distributed and zarr)
    python scripts/peers_data.py --root PATH

Logistic regression of two digits on 7 x 7 pixels, at its minimum: the exact inverse Hessian plus a regularisation, in
float64, of the influence of every training on every test sample, grad L(z_test)^T (H + r)^-1 grad L(z). Each library is
called as its documentation says, with all training samples as one batch for the Hessian. Values: largest difference
over the largest value, after the library's own sign and scale (pyDVL: as here; dattri: as here), which are found by
least squares and printed. Time: median over `--runs`, the three one after the other in each; a ratio, because
this is one machine.

Writes docs/results/peers-data.md and .json.
"""

import argparse
import importlib
import importlib.metadata
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from samples import mnist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from infprune import __version__
from infprune.attribution.per_sample import gradients
from infprune.curvature.algebra import Damped
from infprune.curvature.hessian import Hessian
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.files import atomic_write
from infprune.influence.retraining import minimise
from infprune.solvers.direct import Cholesky

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds MNIST/raw")
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--regularisation", type=float, default=1e-2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    x, y, xt, yt = mnist(chosen.root, chosen.train, chosen.test, size=7, classes=[3, 5])
    data = x.flatten(1), y, xt.flatten(1), yt
    net = at_minimum(data, chosen.regularisation)
    ways: dict[str, Callable[[nn.Module, Data, float], Tensor]] = {"infprune": ours, "pyDVL": pydvl, "dattri": dattri}
    values: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for run in range(chosen.runs + 1):  # the first warms up
        for name, way in ways.items():
            if name in missing:
                continue
            started = time.perf_counter()
            try:
                values[name] = way(net, data, chosen.regularisation).detach()
            except ImportError as error:
                missing[name] = str(error)
                continue
            if run:
                times.setdefault(name, []).append(time.perf_counter() - started)
    write(chosen, values, times, missing)


def at_minimum(data: Data, regularisation: float) -> nn.Module:
    x, y, _, _ = data
    torch.manual_seed(0)
    net = nn.Linear(49, 2).double()
    objective = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=regularisation)
    objective.space.load(net, minimise(objective, objective.theta).theta)
    return net.eval()


def ours(net: nn.Module, data: Data, regularisation: float) -> Tensor:
    x, y, xt, yt = data
    objective = Objective(net, ParameterSpace.of(net), [(x, y)])
    theta = objective.theta
    prepared = Cholesky().init(Damped(Hessian(objective, theta), regularisation))
    (rows,) = gradients(objective.on([(xt, yt)]), 2**28)
    return objective.slopes(theta, prepared.solve(rows.T).required())


def pydvl(net: nn.Module, data: Data, regularisation: float) -> Tensor:
    influence = importlib.import_module("pydvl.influence.torch").DirectInfluence
    x, y, xt, yt = data
    loader = DataLoader(TensorDataset(x, y), batch_size=len(y))
    model = influence(net, F.cross_entropy, regularization=regularisation)
    return model.fit(loader).influences(xt, yt, x, y).T


def dattri(net: nn.Module, data: Data, regularisation: float) -> Tensor:
    attributor = importlib.import_module("dattri.algorithm.influence_function").IFAttributorExplicit
    task = importlib.import_module("dattri.task").AttributionTask
    x, y, xt, yt = data

    def loss(parameters: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, parameters, pair[0]), pair[1])

    made = attributor(task(loss, net, net.state_dict()), regularization=regularisation)
    train = DataLoader(TensorDataset(x, y), batch_size=len(y))
    made.cache(train)
    with torch.no_grad():
        return made.attribute(train, DataLoader(TensorDataset(xt, yt), batch_size=len(yt)))


def write(
    chosen: argparse.Namespace, values: dict[str, Tensor], times: dict[str, list[float]], missing: dict[str, str]
) -> None:
    mine, base = values["infprune"].double(), statistics.median(times["infprune"])
    command = (
        f"python scripts/peers_data.py --root PATH --train {chosen.train} --test {chosen.test} "
        f"--regularisation {chosen.regularisation:g} --runs {chosen.runs}"
    )
    lines = [
        "# Influence values and time against pyDVL and dattri",
        "",
        f"`{command}`",
        "",
        "Logistic regression of two digits, 7 x 7 pixels, 100 parameters, exact inverse Hessian in float64, influence",
        f"of {chosen.train:,} training on {chosen.test} test samples. Difference: largest over the largest value, the",
        "library's sign and scale taken out. Time: median of the ratios to ours within a run (least to largest),",
        f"{chosen.runs} runs after one to warm up, one thread, torch {torch.__version__.partition('+')[0]}; ours took",
        f"{base:.3f} s (median). Hessian, solve and all gradients included.",
        "",
        "| library | version | difference | their value is ours times | time over ours |",
        "|---|---|---:|---:|---:|",
    ]
    rows = {}
    for name, found in values.items():
        other = found.double()
        scale = float((other * mine).sum() / mine.square().sum())
        gap = float((other / scale - mine).abs().max() / mine.abs().max())
        ratios = [t / m for t, m in zip(times[name], times["infprune"], strict=True)]
        version = __version__ if name == "infprune" else importlib.metadata.version(name)
        rows[name] = {"version": version, "difference": gap, "scale": scale, "ratios": ratios}
        told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {version} | {gap:.1e} | {scale:.6f} | {told} |")
    lines += [f"| {name} | not installed | - | - | - |" for name in missing]
    met = all(r["difference"] <= 1e-3 for r in rows.values())
    lines += ["", f"Asked for: the same values to 1e-3; {'met' if met else 'missed'} by what could be compared."]
    atomic_write(chosen.output / "peers-data.md", "\n".join(lines) + "\n")
    atomic_write(chosen.output / "peers-data.json", json.dumps({"command": command, "rows": rows}, indent=1))
    print("\n".join(lines), *missing.values(), sep="\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main()
