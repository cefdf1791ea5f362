"""The same inverse-curvature-vector products as curvlinops and pyDVL, in one run, with our time as a ratio.

    pip install curvlinops-for-pytorch pydvl
    python scripts/bench_curvature.py

(Hessian + damping)^-1 applied to the gradients of 8 test digits, for an MLP (64-32-10, tanh) and a small convolutional
network on scikit-learn's digits, float64, untrained weights, damping 1 (the Hessian is indefinite). The truth is
a dense float64 Cholesky solve of the matrix from torch.autograd.functional. Every contender runs once to warm up, then
they take turns; times are medians of n. Writes docs/results/bench-curvature.md and .json.
"""

import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.curvature.algebra import Damped
from infprune.curvature.hessian import Hessian
from infprune.curvature.kfac import kfac
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.data import splits
from infprune.files import atomic_write
from infprune.solvers.cg import ConjugateGradients
from infprune.solvers.direct import Cholesky

RESULTS = Path(__file__).parents[1] / "docs" / "results"
ROUNDS, SIDES, SAMPLES = 5, 8, 512
RTOL = 1e-6
LONG = 15.0  # seconds: what takes longer runs once, its warm-up


def networks() -> dict[str, tuple[nn.Module, float]]:
    torch.manual_seed(0)
    return {
        "MLP": (nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)), 1.0),
        "conv": (
            nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.Tanh(),
                nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 10),
            ),
            1.0,
        ),
    }  # fmt: skip


def digits(part: Any, count: int) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*[part[i] for i in range(count)], strict=True)
    return torch.stack(xs).double(), torch.tensor(ys)


def contenders(
    net: nn.Module, damping: float, x: Tensor, y: Tensor, B: Tensor, sides: tuple[Tensor, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """Each returns (Hessian + damping)^-1 B, `(P, k)`, from nothing but network and data."""
    objective = Objective(net, ParameterSpace.of(net), [(x, y)])

    def ours(solver: Any) -> Callable[[], Tensor]:
        return lambda: solver.init(Damped(Hessian(objective), damping)).solve(B).value

    def preconditioned() -> Tensor:
        solver = ConjugateGradients(RTOL, 2000, lambda _: kfac(objective).inverse(damping))
        return solver.init(Damped(Hessian(objective), damping)).solve(B).value

    found: dict[str, Callable[[], Tensor]] = {
        "infprune, Cholesky": ours(Cholesky()),
        "infprune, CG": ours(ConjugateGradients(RTOL, 2000)),
        "infprune, CG with KFAC": preconditioned,
    }
    with missing("curvlinops"):
        from curvlinops import CGInverseLinearOperator, HessianLinearOperator  # noqa: PLC0415
        from curvlinops.examples import IdentityLinearOperator  # noqa: PLC0415

        def curvlinops() -> Tensor:
            parameters = [p for p in net.parameters() if p.requires_grad]
            operator = HessianLinearOperator(
                net, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False
            )
            shift = damping * IdentityLinearOperator([tuple(p.shape) for p in parameters], x.device, x.dtype)
            inverse = CGInverseLinearOperator(
                operator + shift, tolerance=RTOL, max_iter=2000, max_tridiag_iter=0, eps=0, stop_updating_after=0
            )
            return inverse @ B

        found["curvlinops, CG"] = curvlinops
    with missing("pydvl"):
        from pydvl.influence.torch import CgInfluence, DirectInfluence, SecondOrderMode  # noqa: PLC0415
        from torch.utils.data import DataLoader, TensorDataset  # noqa: PLC0415

        loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
        mode = SecondOrderMode.HESSIAN

        def direct() -> Tensor:
            made = DirectInfluence(net, F.cross_entropy, regularization=damping, second_order_mode=mode)
            return made.fit(loader).influence_factors(*sides).T

        def cg() -> Tensor:
            made = CgInfluence(
                net, F.cross_entropy, regularization=damping, second_order_mode=mode, rtol=RTOL, atol=0.0, maxiter=2000
            )
            return made.fit(loader).influence_factors(*sides).T

        found |= {"pyDVL, direct": direct, "pyDVL, CG": cg}
    return found


@contextmanager
def missing(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        print(f"{package} is left out: {error}")


def measured(name: str, net: nn.Module, damping: float, data: Any) -> list[dict[str, Any]]:
    net = net.double().eval()
    x, y = digits(data.train, SAMPLES)
    sides = digits(data.test, SIDES)
    parameters = dict(net.named_parameters())
    losses = [F.cross_entropy(net(a[None]), b[None]) for a, b in zip(*sides, strict=True)]
    slopes = [torch.autograd.grad(loss, [*parameters.values()]) for loss in losses]
    B = torch.stack([torch.cat([g.flatten() for g in slope]) for slope in slopes], dim=1)
    truth = torch.linalg.solve(dense(net, x, y) + damping * torch.eye(len(B), dtype=B.dtype), B)
    runs = contenders(net, damping, x, y, B, sides)
    errors, times = {}, {key: [] for key in runs}
    for key, run in list(runs.items()):
        print(name, key, flush=True)
        start = time.perf_counter()
        try:
            errors[key] = float((run().detach() - truth).norm() / truth.norm())
        except Exception as error:  # noqa: BLE001 - a peer that does not run is told and left out
            print(f"{name}: {key} is left out: {type(error).__name__}: {error}", flush=True)
            del runs[key]
        if time.perf_counter() - start > LONG:
            times[key].append(time.perf_counter() - start)
    for _ in range(ROUNDS):
        for key, run in ((k, r) for k, r in runs.items() if len(times[k]) != 1 or times[k][0] < LONG):
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
    base = times["infprune, CG"]
    rows = []
    for key in runs:
        ratios = [b / t for b, t in zip(base, times[key], strict=False)]
        rows.append(
            {
                "network": name, "parameters": len(B), "damping": damping, "contender": key, "error": errors[key],
                "seconds": statistics.median(times[key]), "n": len(times[key]),
                "ours_over_theirs": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def dense(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The Hessian of the mean cross-entropy from torch.autograd.functional, `(P, P)`."""
    space = ParameterSpace.of(net)

    def loss(theta: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(net, space.split(theta), (x,)), y)

    return torch.autograd.functional.hessian(loss, space.values(net), vectorize=True)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data = splits.load("digits", None, None, download=False, args={}, validation=0.1, seed=0)
    rows = [row for name, (net, damping) in networks().items() for row in measured(name, net, damping, data)]
    packages = ("torch", "curvlinops-for-pytorch", "pydvl")
    versions = {}
    for package in packages:
        with missing(package):
            versions[package] = version(package)
    told = ", ".join(f"{k} {v}" for k, v in versions.items())
    lines = [
        "# Inverse-curvature-vector products against curvlinops and pyDVL",
        "",
        "`python scripts/bench_curvature.py`: (Hessian + damping)^-1 applied to the gradients of 8 test digits, 512",
        f"training digits, float64, one thread of two shared cores; {told}.",
        "Error: relative, against a dense float64 solve. Time:",
        f"from network and data to the result, median of {ROUNDS} turns in one run; ratio: time of `infprune, CG` over",
        "the row's, pair by pair, with its smallest and largest value (below 1: we are faster). A row of more than",
        f"{LONG:.0f} s ran once. All CGs have a tolerance of {RTOL:.0e}, each by its own definition.",
        "",
        "| network | contender | relative error | seconds | ratio |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r['network']}, {r['parameters']:,} parameters | {r['contender']} | {r['error']:.1e} | {r['seconds']:.3f} |"
        f" "
        f"{r['ours_over_theirs']:.2f} ({r['spread'][0]:.2f} to {r['spread'][1]:.2f}) |"
        for r in rows
    ]
    atomic_write(RESULTS / "bench-curvature.md", "\n".join(lines) + "\n")
    atomic_write(RESULTS / "bench-curvature.json", json.dumps({"versions": versions, "rows": rows}, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
