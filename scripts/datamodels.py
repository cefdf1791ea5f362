"""Linear datamodeling scores: do summed influences tell how models trained on random halves of the data behave?

    python scripts/datamodels.py --root PATH

The score (Park et al. 2023): over random halves S of the training set, Spearman's correlation of the output f(z_test)
of a model trained on S with the sum over S of the influence of each sample on it; mean over test samples. f is the
margin log p / (1 - p) of the test sample's label. Influence: grad f(z_test)^T (H + damping)^-1 grad L(z) / N.

Part 1: logistic regression of two digits, H the dense Hessian with its ridge, every model trained to its minimum.
Part 2: a network with one hidden layer (two layers of weights) of ten digits at 14 x 14 pixels, trained by Adam; H by
EKFAC, damping a tenth of its mean eigenvalue; influences of one model, and averaged over ensembles of models that
differ in their initial weights. The truth is the mean over `--repeats` trainings per half.

Writes docs/results/data-attribution.md and .json; an interrupted run goes on where it was.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from samples import mnist
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.attribution.per_sample import gradients
from infprune.curvature import regularised
from infprune.curvature.kfac import ekfac
from infprune.curvature.losses import AnyLoss
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace
from infprune.files import atomic_write
from infprune.models import MODELS
from infprune.pipeline.store import Store
from infprune.solvers.direct import Cholesky

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds MNIST/raw")
    parser.add_argument("--digits", default="3,5", help="of the logistic regression")
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--ridge", type=float, default=1e-3, help="of the logistic regression")
    parser.add_argument("--halves", type=int, default=100)
    parser.add_argument("--small", type=int, default=5000, help="training samples of the network")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2, help="trainings per half of the network")
    parser.add_argument("--models", type=int, default=10, help="of the largest ensemble")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    named = ("digits", "train", "test", "ridge", "small", "hidden", "epochs")
    identity = " ".join(f"{name} {getattr(chosen, name)}" for name in named)
    store = Store(Path("runs/datamodels.json"), identity, resume=True)
    write(chosen, of_logistic(store, chosen), of_network(store, chosen))


def of_logistic(store: Store, chosen: argparse.Namespace) -> dict[str, Any]:
    digits = [int(d) for d in chosen.digits.split(",")]
    data = mnist(chosen.root, chosen.train, chosen.test, classes=digits)
    x, y, xt, yt = data
    halves = drawn(chosen.halves, len(y))
    net = MODELS["logistic_regression"](784, 2).double()
    whole = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=chosen.ridge)
    theta = minimum(whole)
    whole.space.load(net, theta)
    truth = []
    for number, half in enumerate(halves):
        key = f"logistic/{number}"
        if store.get(key) is None:
            found = minimum(whole.on([(x[half], y[half])]), theta)
            store.put(key, rounded(margins(whole.outputs(found, xt), yt)))
            print(key, flush=True)
        truth.append(store.get(key))
    curvature = Cholesky().init(regularised("hessian", whole, theta))
    influence = attributed(whole, (xt, yt), lambda V: curvature.solve(V).required())
    plain = attributed(whole, (xt, yt), lambda V: V)
    actual = torch.tensor(truth, dtype=torch.float64)
    accuracy = float((whole.outputs(theta, xt).argmax(1) == yt).double().mean())
    told = {"inverse Hessian": score(influence, halves, actual), "no curvature": score(plain, halves, actual)}
    return {"parameters": len(theta), "accuracy": accuracy, "scores": told}


def minimum(objective: Objective, start: Tensor | None = None) -> Tensor:
    """L-BFGS to a gradient of 1e-7."""
    theta = (objective.theta if start is None else start).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=500, history_size=30, line_search_fn="strong_wolfe")
    optimizer.param_groups[0].update(tolerance_grad=1e-7, tolerance_change=0)
    ((x, y),) = objective.batches

    def closure() -> float:
        loss = F.cross_entropy(objective.outputs(theta, x), y) + 0.5 * objective.ridge * theta.square().sum()
        theta.grad = torch.autograd.grad(loss, theta)[0]
        return float(loss.detach())

    optimizer.step(closure)
    return theta.detach()


def of_network(store: Store, chosen: argparse.Namespace) -> dict[str, Any]:
    data = mnist(chosen.root, chosen.small, chosen.test, size=14, dtype=torch.float32)
    x, y, xt, yt = data
    halves = drawn(chosen.halves, len(y))
    truth = []
    for number, half in enumerate(halves):
        runs = []
        for repeat in range(chosen.repeats):
            key = f"network/{number}/{repeat}"
            if store.get(key) is None:
                net = trained(chosen, x[half], y[half], seed=1000 + number * chosen.repeats + repeat)
                store.put(key, rounded(margins(net(xt), yt)))
                print(key, flush=True)
            runs.append(store.get(key))
        truth.append(torch.tensor(runs, dtype=torch.float64).mean(0).tolist())
    actual = torch.tensor(truth, dtype=torch.float64)
    found, plain, accuracies = [], [], []
    for model in range(chosen.models):
        net = trained(chosen, x, y, seed=model)
        accuracies.append(float((net(xt).argmax(1) == yt).double().mean()))
        objective = Objective(net, ParameterSpace.of(net), [(x, y)])
        operator = ekfac(objective)
        damping = 0.1 * float(operator.diagonal().mean())
        inverse = operator.inverse(damping)
        found.append(attributed(objective, (xt, yt), lambda V, inverse=inverse: inverse.matmat(V)))
        plain.append(attributed(objective, (xt, yt), lambda V: V))
        print(f"model {model}: attributed", flush=True)
    told = {"EKFAC": ensembles(found, halves, actual), "no curvature": ensembles(plain, halves, actual)}
    size = sum(p.numel() for p in net.parameters())
    return {"parameters": size, "accuracy": statistics.mean(accuracies), "scores": told}


def trained(chosen: argparse.Namespace, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(196, chosen.hidden), nn.ReLU(), nn.Linear(chosen.hidden, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-5)
    for epoch in range(chosen.epochs):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - epoch / chosen.epochs)
        for at in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[at]), y[at]).backward()
            optimizer.step()
    return net.eval()


def drawn(count: int, samples: int) -> list[Tensor]:
    """Random halves of the training samples, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randperm(samples, generator=generator)[: samples // 2] for _ in range(count)]


def margins(z: Tensor, y: Tensor) -> Tensor:
    """Log p / (1 - p) of each sample's label."""
    own = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -torch.inf)
    return own - others.logsumexp(1)


def rounded(values: Tensor) -> list[float]:
    return [float(f"{v:.6g}") for v in values.detach().tolist()]


def attributed(objective: Objective, test: tuple[Tensor, Tensor], inverse: Any) -> Tensor:
    """What each training sample adds to each test sample's margin: `(N, tests)`."""
    theta, (xt, yt) = objective.theta, test
    asked = Objective(objective.module, objective.space, [(xt, yt)], AnyLoss(margins))
    solved = inverse(torch.cat(list(gradients(asked, 2**28))).T).to(theta)
    return -objective.slopes(theta, solved).double() / objective.samples()


def score(influence: Tensor, halves: list[Tensor], actual: Tensor) -> tuple[float, float]:
    """Mean over test samples, and its standard error."""
    predicted = torch.stack([influence[half].sum(0) for half in halves])
    found = [float(spearmanr(predicted[:, i], actual[:, i]).statistic) for i in range(actual.shape[1])]
    return statistics.mean(found), statistics.stdev(found) / len(found) ** 0.5


def ensembles(found: list[Tensor], halves: list[Tensor], actual: Tensor) -> dict[str, Any]:
    """One model: mean and spread over models. Ensembles: disjoint ones of each size."""
    told = {}
    for size in (n for n in (1, 2, 5, 10, 20) if n <= len(found)):
        groups = [found[i : i + size] for i in range(0, len(found) - size + 1, size)]
        values = [score(torch.stack(group).mean(0), halves, actual)[0] for group in groups]
        told[str(size)] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))
    return told


def write(chosen: argparse.Namespace, logistic: dict[str, Any], network: dict[str, Any]) -> None:
    command = (
        f"python scripts/datamodels.py --root PATH --digits {chosen.digits} --train {chosen.train} "
        f"--test {chosen.test} --ridge {chosen.ridge:g} --halves {chosen.halves} --small {chosen.small} "
        f"--hidden {chosen.hidden} --epochs {chosen.epochs} --repeats {chosen.repeats} --models {chosen.models}"
    )
    lines = [
        "# Data attribution: the linear datamodeling score",
        "",
        f"`{command}`",
        "",
        f"{chosen.halves} random halves of the training samples; Spearman's correlation, over the halves, of the",
        "margin of a test sample under a model trained on the half with the summed influences of its samples;",
        f"mean over {chosen.test} test samples.",
        "",
        f"## Logistic regression, digits {chosen.digits.replace(',', ' and ')}",
        "",
        f"{chosen.train:,} training samples, {logistic['parameters']} parameters, test accuracy",
        f"{logistic['accuracy']:.1%}. Asked for: at least .80.",
        "",
        "| influence with | score (standard error over test samples) |",
        "|---|---:|",
        *(f"| {name} | {mean:.3f} ({error:.3f}) |" for name, (mean, error) in logistic["scores"].items()),
        "",
        "## Network with one hidden layer",
        "",
        f"{chosen.small:,} training samples of ten digits, 14 x 14 pixels, {network['parameters']:,} parameters, test",
        f"accuracy {network['accuracy']:.1%} (mean of {chosen.models}); truth: mean of {chosen.repeats} trainings.",
        "Asked for: above .26 with a single model. Mean over disjoint ensembles (sample standard deviation; number).",
        "",
    ]
    sizes = list(network["scores"]["EKFAC"])
    lines += ["| influence with | " + " | ".join(f"{n} model{'s' * (n != '1')}" for n in sizes) + " |"]
    lines += ["|---|" + "---:|" * len(sizes)]
    for name, row in network["scores"].items():
        lines.append(f"| {name} | " + " | ".join(f"{m:.3f} ({s:.3f}; {n})" for m, s, n in row.values()) + " |")
    atomic_write(chosen.output / "data-attribution.md", "\n".join(lines) + "\n")
    content = {"command": command, "logistic": logistic, "network": network}
    atomic_write(chosen.output / "data-attribution.json", json.dumps(content, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
