"""What learning the masks costs: a training step with INF-CP's false pruning against an ordinary one.

    python scripts/bench_joint_step.py

Alternating steps of one process on random images, batch 128; the ratio of each pair, median and quartiles. The masks
are in their learning part, where every step collects mask gradients and moves micro-convolutions.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from infprune import selection
from infprune.coupling.couple import couple
from infprune.files import atomic_write
from infprune.joint.inf_cp import InfCp, Settings
from infprune.models import MODELS
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, Limits
from infprune.training import Plugin

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SHAPES = {
    "digits_resnet": (1, 8, 8),
    "alexnet5": (1, 28, 28),
    "resnet20": (3, 32, 32),
    "resnet56": (3, 32, 32),
    "vgg16_bn": (3, 32, 32),
}
PAIRS = 15
VERSION = torch.__version__.partition("+")[0]


def main() -> None:
    rows = {name: ratio(name, shape) for name, shape in SHAPES.items()}
    setting = f"batch 128, {PAIRS} alternating pairs, {torch.get_num_threads()} CPU thread(s), torch {VERSION}"
    lines = [
        "# The price of learning masks: an INF-CP training step over an ordinary one",
        "",
        f"`python scripts/bench_joint_step.py`: {setting}.",
        "",
        "| network | ratio, median (quartiles) | ordinary step, median (ms) |",
        "|---|---:|---:|",
    ]
    for name, r in rows.items():
        low, middle, high = r["ratio"]
        lines.append(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {r['plain_ms']:.0f} |")
    print("\n".join(lines))
    atomic_write(RESULTS / "joint-step.md", "\n".join(lines) + "\n")
    atomic_write(RESULTS / "joint-step.json", json.dumps(rows, indent=1))


def ratio(name: str, shape: tuple[int, ...]) -> dict[str, object]:
    torch.manual_seed(0)
    module = MODELS[name]().train()
    x, y = torch.randn(128, *shape), torch.randint(10, (128,))
    plain, masked = stepper(module, Plugin(), x, y), stepper(module, learning(module, x, y), x, y)
    plain(), masked()
    times = [(clock(plain), clock(masked)) for _ in range(PAIRS)]
    return {
        "ratio": statistics.quantiles([b / a for a, b in times], n=4),
        "plain_ms": 1000 * statistics.median(a for a, _ in times),
    }


def learning(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> InfCp:
    """The plugin, moved to the middle of its learning."""
    coupling = couple(module, x[:2])
    layers = selection.prunable(coupling)

    def select(scores: object) -> selection.PruningPlan:
        return selection.select(
            coupling, layers, ChannelScores("inf-cp", "", dict(scores)), Budget(macs=0.59), Limits("global")
        )

    plugin = InfCp(module, layers, select, Settings(apart=False))
    step = stepper(module, plugin, x, y)
    for done in (0.05, 0.11, 0.12):
        step()
        plugin.step(done)
    return plugin


def stepper(module: nn.Module, plugin: Plugin, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        loss = F.cross_entropy(plugin.logits(module, x), y)
        optimizer.zero_grad(set_to_none=True)
        penalty = plugin.penalty()
        (loss if penalty is None else loss + penalty).backward()
        plugin.observe(module)
        optimizer.step()
        plugin.step(0.13)

    return step


def clock(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
