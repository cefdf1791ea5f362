"""Which score ranks channels as retraining does: every channel of a small network removed, and the rest trained on.

    python scripts/ranking.py --seeds 2 data.root=PATH

Two strided convolutions (16 and 24 channels) and a linear layer on 6,000 MNIST images of 7 x 7, float64, GELU (ReLU
has kinks at which no second derivative exists), squared penalty 1e-3: a network that cannot learn its images by heart,
so that every channel is missed. It is trained until the decrease that Newton's method promises with a Gauss-Newton
matrix, 1/2 g^T G^-1 g, is below 1e-8 nats. Then a channel's weights, those that read it and those that make it, are
pinned at zero, and the truth is how much more the regularised training loss is

- fine-tuned: once all other weights were trained on for 20 epochs of Adam, against the dense network trained on equally
  long with the same batches; mean of three orders of the batches;
- reader retrained: at the minimum over the weights and biases of the layer that reads the channel, all others held.

For a few channels all weights are trained to the next minimum, from two starts: where the quadratic of the dense
network has its minimum, and where its other weights are. They tell whether that could be a truth. Spearman's
correlation of each criterion with the truths, over all channels and within each layer. Writes docs/results/ranking.md
and ranking.json; an interrupted run goes on where it was.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from infprune import config
from infprune.coupling.couple import couple
from infprune.coupling.groups import ChannelLayer, Role
from infprune.curvature import regularised
from infprune.curvature.algebra import Dense
from infprune.curvature.kfac import ekfac, kfac
from infprune.curvature.objective import Objective
from infprune.curvature.patches import matrix, rows_read
from infprune.curvature.space import ParameterSpace
from infprune.errors import ConfigError
from infprune.files import atomic_write
from infprune.influence.block import block
from infprune.influence.groups import Group, channel_groups
from infprune.influence.kronecker import dampen, invert
from infprune.influence.printed import printed
from infprune.influence.quadratic import Quadratic
from infprune.pipeline.session import open_session
from infprune.pipeline.store import Store
from infprune.scores import SCORES
from infprune.scores.contract import ScoringInputs, Statistics
from infprune.scores.measure import collect, needs_of, score
from infprune.solvers.cg import ConjugateGradients, jacobi
from infprune.solvers.direct import Cholesky

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RIDGE, SAMPLES, TOLERANCE = 1e-3, 6000, 1e-8
WIDTHS = (16, 24)
NETWORK = [
    "network",
    "parameters",
    "loss",
    "of it penalty",
    "training accuracy",
    "least eigenvalue",
    "fine-tuned, nats",
    "spread over orders",
    "reader retrained, nats",
]
TRUTHS = ("fine-tuned", "its loss alone", "reader retrained")
EPOCHS, BATCH, RATE, ORDERS = 20, 200, 1e-3, 3  # of fine-tuning
FAR = 8  # every so many channels are trained to the next minimum, with so many evaluations at most:
EVALUATIONS = 400
SHARES = (0.25, 0.5)  # of every layer, cut together
COMPARED = (
    "influence",
    "influence, 1 label per sample, each channel alone",
    "what reads it, KFAC, exact block",
    "taylor",
    "inf-cp",
    "magnitude",
    "theorem1",
    "gate",
    "random",
)


def network(widths: tuple[int, int], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, widths[0], 3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(*widths, 2, stride=2),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[1], 10),
    ).double()


class Metric:
    """Coordinates u = |H|^(1/2) theta in which a quadratic of curvature |H| is round; eigenvalues at least `least`."""

    def __init__(self, H: Tensor, least: float) -> None:
        values, self._vectors = torch.linalg.eigh(H)
        self._root = values.abs().clamp(min=least).sqrt()

    def into(self, theta: Tensor) -> Tensor:
        return self._root * (self._vectors.T @ theta)

    def back(self, u: Tensor) -> Tensor:
        return self._vectors @ (u / self._root)

    def gradient(self, g: Tensor) -> Tensor:
        """Of u: 1/2 of its square is Newton's decrease."""
        return (self._vectors.T @ g) / self._root


def descended(
    objective: Objective, theta: Tensor, free: Tensor, metric: Metric, evaluations: int
) -> tuple[Tensor, float]:
    """L-BFGS over the free entries: theta and what Newton's method would still gain."""
    u = metric.into(theta[free]).requires_grad_()

    def whole(at: Tensor) -> Tensor:
        found = theta.clone()
        found[free] = metric.back(at)
        return found

    def closure() -> float:
        value, slope = both(objective, whole(u.detach()))
        u.grad = metric.gradient(slope[free])
        return value

    optimizer = torch.optim.LBFGS(
        [u], max_iter=20, history_size=50, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    closure()
    while (left := promised(u)) >= TOLERANCE and optimizer.state[u].get("func_evals", 0) < evaluations:
        optimizer.step(closure)
        closure()
    return whole(u.detach()), left


def promised(u: Tensor) -> float:
    """What a Newton step would gain, in coordinates in which the curvature is I."""
    assert u.grad is not None
    return 0.5 * float(u.grad.square().sum())


def both(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    """Value and gradient from one forward pass."""
    ((x, y),) = objective.batches
    leaf = theta.detach().requires_grad_()
    loss = F.cross_entropy(objective.outputs(leaf, x), y) + 0.5 * objective.ridge * leaf.square().sum()
    return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]


def stepped(objective: Objective, start: Tensor, free: Tensor, seed: int, epochs: int, rate: float) -> Tensor:
    """Adam over mini-batches on the free entries, its rate falling as half a cosine."""
    ((x, y),) = objective.batches
    assert isinstance(x, Tensor)
    theta, held = start.clone().requires_grad_(), torch.ones_like(start)
    held[free] = 0
    optimizer = torch.optim.Adam([theta], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // BATCH))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            slope = both(replace(objective, batches=[(x[rows], y[rows])]), theta)[1]
            theta.grad = slope * (1 - held)
            optimizer.step()
            schedule.step()
    return theta.detach()


def trained(objective: Objective, seed: int, rounds: int = 30) -> Tensor:
    """Adam, then L-BFGS in coordinates of a Gauss-Newton matrix that is made anew in every round."""
    ((x, _),) = objective.batches
    assert isinstance(x, Tensor)
    everything, lift = torch.arange(objective.space.size), 1e-2
    found = stepped(objective, objective.theta, everything, seed, 60, 1e-2)
    for i in range(rounds):
        H = gauss_newton(objective, found, x[: len(x) // 2]) + objective.ridge * torch.eye(len(found)).double()
        metric = Metric(H + lift * torch.eye(len(found)).double(), 0.0)
        found, left = descended(objective, found, everything, metric, 100)
        lift /= 5
        print(f"round {i}: {both(objective, found)[0]:.8f}, Newton's decrease {left:.1e}", flush=True)
        if left < TOLERANCE:
            break
    return found


def gauss_newton(objective: Objective, theta: Tensor, x: Tensor) -> Tensor:
    """That of the loss, without the penalty, from whole Jacobians."""
    total = torch.zeros(len(theta), len(theta)).double()
    for part in x.split(250):
        J = objective.jacobians(theta, part).detach()
        p = objective.outputs(theta, part).detach().softmax(1)[:, :, None]
        A = (p.sqrt() * (J - (p * J).sum(1, keepdim=True))).flatten(0, 1)
        total.addmm_(A.T, A)
    return total / len(x)


def makers(space: ParameterSpace, layer: ChannelLayer) -> list[Tensor]:
    """Positions of what makes each channel: rows of the weight, entries of the bias."""
    slices = [s for s in layer.having(Role.PRODUCER) if s.tensor in space.names]
    return [torch.cat([space.at(s.tensor, s.dim, s.index[c]) for s in slices]).unique() for c in range(layer.size)]


class Case:
    """One network at its minimum, with its dense Hessian."""

    def __init__(self, x: Tensor, y: Tensor, widths: tuple[int, int], seed: int, folder: Path) -> None:
        net = network(widths, seed).eval()
        objective = Objective(net, ParameterSpace.of(net), [(x, y)], ridge=RIDGE)
        path = folder / f"ranking-{widths[0]}-{widths[1]}-{seed}.pt"
        self.store = path.with_suffix(".json")
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            theta = trained(objective, seed)
            H = regularised("hessian", objective, theta).to_dense()
            G = gauss_newton(objective, theta, x) + RIDGE * torch.eye(len(theta)).double()
            torch.save({"theta": theta, "H": H, "G": G}, path)
        kept = torch.load(path, weights_only=True)
        self.theta, self.H, self.G = kept["theta"], kept["H"], kept["G"]
        objective.space.load(net, self.theta)
        self.net, self.objective = net, objective
        self.coupling = couple(net, x[:2])
        self.groups: list[Group] = []
        self.readers: list[Group] = []
        self.layer: list[ChannelLayer] = []
        for layer in self.coupling.prunable:
            readers = channel_groups(objective.space, layer)
            self.readers += readers
            own = makers(objective.space, layer)
            self.groups += [
                Group(r.name, torch.cat([r.positions, m]).unique()) for r, m in zip(readers, own, strict=True)
            ]
            self.layer += [layer] * layer.size
        self.value = both(objective, self.theta)[0]

    def measured(self, i: int | None) -> dict[str, Any]:
        """The losses of one channel's removal; None: of the dense network, trained on."""
        group = torch.empty(0, dtype=torch.long) if i is None else self.groups[i].positions
        losses, penalties = self.finetuned(group)
        told: dict[str, Any] = {"fine-tuned": losses, "penalty": penalties}
        if i is None:
            return told
        names = {s.tensor for s in self.layer[i].having(Role.CONSUMER)}
        names |= {n.replace("weight", "bias") for n in names}
        own = torch.cat([self.objective.space.at(n) for n in sorted(names)])
        held, reader = self.theta.clone(), self.readers[i].positions
        held[reader] = 0
        told["reader retrained"], told["left"] = self.minimum(held, own[~torch.isin(own, reader)])
        return told

    def finetuned(self, group: Tensor) -> tuple[list[float], list[float]]:
        """Losses without a group, and the penalty in them, by order of the batches."""
        free, pinned = rest(len(self.theta), group), self.theta.clone()
        pinned[group] = 0
        ends = [stepped(self.objective, pinned, free, order, EPOCHS, RATE) for order in range(ORDERS)]
        return [both(self.objective, theta)[0] for theta in ends], [penalty(theta) for theta in ends]

    def far(self, i: int) -> list[tuple[float, float]]:
        """All weights trained to the next minimum, from two starts."""
        group = self.groups[i].positions
        free, pinned = rest(len(self.theta), group), self.theta.clone()
        pinned[group] = 0
        metric, quadratic = Metric(self.H[free[:, None], free], RIDGE / 10), pinned.clone()
        quadratic[free] += metric.back(metric.gradient(self.H[free[:, None], group] @ self.theta[group]))
        return [self.minimum(start, free, metric) for start in (quadratic, pinned)]

    def minimum(self, start: Tensor, free: Tensor, metric: Metric | None = None) -> tuple[float, float]:
        """What is more than the dense loss at the next minimum, and what Newton's method would still gain there."""
        metric = metric or Metric(self.H[free[:, None], free], RIDGE / 10)
        theta, left = descended(self.objective, start, free, metric, EVALUATIONS)
        return both(self.objective, theta)[0] - self.value, left


def penalty(theta: Tensor) -> float:
    return 0.5 * RIDGE * float(theta.square().sum())


def rest(size: int, S: Tensor) -> Tensor:
    free = torch.ones(size, dtype=torch.bool)
    free[S] = False
    return free.nonzero()[:, 0]


def ranked(case: Case) -> dict[str, list[float]]:
    """Every criterion that this network allows, and single removals in several curvatures."""
    layers = case.coupling.prunable
    names = [name for name in SCORES if name != "bn-scale"]
    found = {}
    for draws, chosen in ((1, names), (16, ["influence", "gate"])):
        statistics = collect(case.net, layers, case.objective.batches, needs_of(chosen), seed=0, draws=draws)
        for name in chosen:
            values = score(name, ScoringInputs(case.net, layers, statistics, None, 0)).values
            title = name if draws == 1 else f"{name}, {draws} labels per sample"
            found[title] = torch.cat([values[layer.name] for layer in layers]).tolist()
        if "influence" in chosen:
            title = f"influence, {draws} label{'s' * (draws > 1)} per sample, each channel alone"
            found[title] = alone(case, statistics)
    removals = {"": case.readers, " and its own weights": case.groups}
    for curvature, H in (("whole GGN", case.G), ("true Hessian", case.H)):
        quadratic = Quadratic(Dense(H), case.theta, Cholesky())
        if quadratic.inverse is None:
            print(f"{curvature}: not positive definite, left out", flush=True)
            continue
        for what, groups in removals.items():
            title = f"what reads it{what}, {curvature}, exact block"
            found[title] = [block(quadratic, g.positions).change for g in groups]
        found[f"what reads it, {curvature}, as printed"] = [
            printed(quadratic, g.positions).change for g in case.readers
        ]
    for curvature, make in (("KFAC", kfac), ("EKFAC", ekfac)):
        quadratic = Quadratic(make(case.objective).damped(RIDGE), case.theta, ConjugateGradients(1e-6, 500, jacobi))
        title = f"what reads it, {curvature}, exact block"
        found[title] = [block(quadratic, g.positions).change for g in case.readers]
    return found


def alone(case: Case, statistics: Statistics) -> list[float]:
    """The price of each channel before any other has gone, from what `influence` takes its nested ones from."""
    found = []
    for layer in case.coupling.prunable:
        (reader,) = layer.having(Role.CONSUMER)
        name = reader.tensor.rpartition(".")[0]
        owner, factors = case.net.get_submodule(name), statistics.kronecker[name]
        A, G = invert(dampen(factors.inputs.dense(), None))[0], factors.gradients[0]
        W = matrix(owner).detach()[0]
        for columns in rows_read(owner, reader.index):
            pulled = torch.linalg.solve(A[columns][:, columns], W[:, columns].T.to(A))
            found.append(0.5 * float(((G.to(A) @ W[:, columns].to(A)) * pulled.T).sum()))
    return found


def cuts(case: Case, scores: dict[str, list[float]], store: Store) -> dict[str, list[list[float]]]:
    """The loss once the lowest channels of every layer are gone together and the rest is fine-tuned."""
    found: dict[str, list[list[float]]] = {}
    dense = store.get("dense")["fine-tuned"]
    for name in (n for n in scores if n in COMPARED):
        for share in SHARES:
            key = f"{name}, {share:g} cut"
            if store.get(key) is None:
                gone = torch.cat([case.groups[i].positions for i in lowest(case, scores[name], share)]).unique()
                store.put(key, case.finetuned(gone)[0])
                print(key, store.get(key), flush=True)
            found.setdefault(name, []).append([v - d for v, d in zip(store.get(key), dense, strict=True)])
    return found


def lowest(case: Case, values: list[float], share: float) -> list[int]:
    """Channels to cut: so large a share of every layer."""
    found, start = [], 0
    for layer in case.coupling.prunable:
        own = torch.tensor(values[start : start + layer.size])
        found += [start + int(i) for i in own.argsort()[: round(share * layer.size)]]
        start += layer.size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_intermixed_args()
    session = open_session(config.load("mnist-alexnet5", ["model.checkpoint=random", *chosen.words]), "ranking")
    train = session.splits.train
    xs, ys = zip(*[train[i] for i in range(SAMPLES)], strict=True)
    x, y = F.avg_pool2d(torch.stack(xs).double(), 4), torch.tensor(ys)
    path = RESULTS / "ranking.json"
    networks = json.loads(path.read_text())["networks"] if path.exists() else {}
    for seed in range(chosen.seeds):
        networks[f"{WIDTHS[0]} + {WIDTHS[1]} channels, seed {seed}"] = judged(Case(x, y, WIDTHS, seed, session.folder))
        write(networks)


def judged(case: Case) -> dict[str, Any]:
    """Truths and scores of all channels of a network."""
    low = float(torch.linalg.eigvalsh(case.H)[0])
    slope = both(case.objective, case.theta)[1]
    decrease = 0.5 * float(slope @ torch.linalg.solve(case.H, slope))
    print(f"Newton's decrease with the true Hessian {decrease:.1e}", flush=True)
    print(f"loss {case.value:.6f}, gradient {float(slope.norm()):.1e}, least eigenvalue {low:.1e}", flush=True)
    store = Store(case.store, f"{SAMPLES} {RIDGE} {TOLERANCE} {EPOCHS} {RATE} {ORDERS} {EVALUATIONS}", resume=True)
    names = [group.name for group in case.groups]
    todo: list[tuple[str, Callable[[], Any]]] = [
        ("dense", lambda: case.measured(None)),
        *((n, partial(case.measured, i)) for i, n in enumerate(names)),
    ]
    todo += [(f"{n} far", partial(case.far, i)) for i, n in enumerate(names) if i % FAR == 0]
    for name, make in todo:
        if store.get(name) is None:
            store.put(name, make())
            print(name, store.get(name), flush=True)
    dense, told = store.get("dense"), [store.get(name) for name in names]

    def more(t: dict[str, Any], *, alone: bool = False) -> list[float]:
        losses = [[v - alone * p for v, p in zip(r["fine-tuned"], r["penalty"], strict=True)] for r in (t, dense)]
        return [a - b for a, b in zip(*losses, strict=True)]

    ((x, y),) = case.objective.batches
    scores = ranked(case)
    right = (case.objective.outputs(case.theta, x).argmax(1) == y).double().mean()
    return {
        "channels": names,
        "parameters": len(case.theta),
        "loss": case.value,
        "penalty": penalty(case.theta),
        "accuracy": float(right),
        "eigenvalue": low,
        "gradient": float(slope.norm()),
        "decrease": decrease,
        "left": max(t["left"] for t in told),
        "orders": [more(t) for t in told],
        "starts": {name: found for name in names if (found := store.get(f"{name} far"))},
        "truths": {
            "fine-tuned": [statistics.mean(more(t)) for t in told],
            "its loss alone": [statistics.mean(more(t, alone=True)) for t in told],
            "reader retrained": [t["reader retrained"] for t in told],
        },
        "scores": scores,
        "cuts": cuts(case, scores, store),
    }


def correlation(network: dict[str, Any], values: list[float], truth: str, layer: str = "") -> float:
    """Spearman's, over the channels of a layer or all."""
    at = [i for i, name in enumerate(network["channels"]) if name.startswith(layer)]
    actual = network["truths"][truth]
    return spearman([values[i] for i in at], [actual[i] for i in at])


def write(networks: dict[str, Any]) -> None:
    """The page: one table of means over the networks, and what is known of each truth."""
    layers = sorted({name.rpartition("[")[0] for n in networks.values() for name in n["channels"]})
    columns = [(truth, "") for truth in TRUTHS]
    columns += [(truth, f"{layer}[") for truth in (TRUTHS[0], TRUTHS[2]) for layer in layers]
    rows: dict[str, list[list[float]]] = {}
    for network in networks.values():
        for name, values in network["scores"].items():
            cells = [correlation(network, values, *column) for column in columns]
            rows.setdefault(name, []).append(cells)
    head = ["criterion", *(f"{truth}, within layer {at[:-1]}" if at else truth for truth, at in columns)]
    ordered = sorted(rows.items(), key=lambda r: -statistics.mean(cells[0] for cells in r[1]))
    alone, reader = (
        cell([correlation(n, n["truths"][TRUTHS[0]], truth) for n in networks.values()]) for truth in TRUTHS[1:]
    )
    again = cell([orders(n) for n in networks.values()])
    starts = [
        f"{name}, channel {channel}: {a[0]:.1e} and {b[0]:.1e} (still to gain {a[1]:.0e} and {b[1]:.0e})"
        for name, n in networks.items()
        for channel, (a, b) in n["starts"].items()
    ]
    decreases = " and ".join(f"{n['decrease']:.0e}" for n in networks.values())
    told = f"""# Which score ranks channels as retraining does

`python scripts/ranking.py --seeds 2 data.root=PATH`: every channel of two strided convolutions removed, the rest
trained on ({SAMPLES:,} MNIST images of 7 x 7, squared penalty {RIDGE:g}, GELU, float64). The dense networks are close
to minima of the regularised loss: a Newton step with the whole Hessian promises {decreases} nats there.

{table(NETWORK, [told_of(name, n) for name, n in networks.items()])}

Fine-tuned: the regularised loss after {EPOCHS} epochs of Adam on all weights that are left, less that of the dense
network trained on with the same batches; mean of {ORDERS} orders of the batches, of which two agree with {again}
(Spearman, mean over their pairs). Its loss alone: the same networks without the penalty. Reader retrained: the
regularised loss at the minimum over the layer that reads the channel, less that of the dense network. The first truth
against the second: {alone}, against the third: {reader}.

Spearman's correlation, mean of {len(networks)} networks (least to greatest). What reads it: the exact block form of
Theorem 1, or the printed one, for the weights that read the channel, or for these and those that make it.

{table(head, [[name, *(cell([c[i] for c in f]) for i in range(len(columns)))] for name, f in ordered])}

Channels cut together: the lowest of every layer by each criterion, then fine-tuned as above; how much more the
regularised loss is than the dense network's, in nats, means of {ORDERS} orders and of the networks (least to greatest
network):

{table(["criterion", *(f"{share:.0%} of every layer" for share in SHARES)], together(networks))}

All weights trained to the next minimum (at most {EVALUATIONS} evaluations), from the minimum of the dense network's
quadratic and from its other weights as they are:

{chr(10).join(f"- {line}" for line in starts)}
"""
    atomic_write(RESULTS / "ranking.md", told)
    atomic_write(RESULTS / "ranking.json", json.dumps({"networks": networks}, indent=1))
    print(told)


def together(networks: dict[str, Any]) -> list[list[str]]:
    """Rows of what is lost when many channels go, the least at the largest share first."""
    found = {
        name: [[statistics.mean(n["cuts"][name][i]) for n in networks.values()] for i in range(len(SHARES))]
        for name in COMPARED
    }
    ordered = sorted(found.items(), key=lambda row: statistics.mean(row[1][-1]))
    return [[name, *(cell(values) for values in row)] for name, row in ordered]


def told_of(name: str, n: dict[str, Any]) -> list[str]:
    """A network and its truths, as `NETWORK` has them."""
    fine, reader = (n["truths"][truth] for truth in (TRUTHS[0], TRUTHS[2]))
    return [
        name,
        f"{n['parameters']:,}",
        f"{n['loss']:.4f}",
        f"{n['penalty']:.4f}",
        f"{n['accuracy']:.4f}",
        f"{n['eigenvalue']:.1e}",
        f"{min(fine):.1e} to {max(fine):.1e}",
        f"{statistics.median(statistics.stdev(v) for v in n['orders']):.1e}",
        f"{min(reader):.1e} to {max(reader):.1e}",
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spearman(a: list[float], b: list[float]) -> float:
    return float(spearmanr(a, b).statistic)


def orders(network: dict[str, Any]) -> float:
    """How well two orders of the batches agree on the ranking."""
    told = list(zip(*network["orders"], strict=True))
    return statistics.mean(spearman(list(a), list(b)) for a, b in combinations(told, 2))


def cell(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
