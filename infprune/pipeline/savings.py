"""What a cut has left of a network, beside what it was: sizes, time and proof."""

from dataclasses import dataclass

from torch import nn

from infprune import cost, ranks
from infprune.latency import compare
from infprune.pipeline.bench import Bench
from infprune.pipeline.cutting import Cut
from infprune.pipeline.prune_results import Verified
from infprune.pipeline.results import Change
from infprune.selection import PruningPlan

ROUNDS = 15


@dataclass(frozen=True)
class Sizes:
    """What a plan leaves of a network."""

    channels: Change
    params: Change
    macs: Change
    bytes: Change

    @property
    def costs(self) -> dict[str, Change]:
        """What budgets speak of, by their names."""
        return {"params": self.params, "macs": self.macs, "bytes": self.bytes}


def sizes(bench: Bench, plan: PruningPlan) -> Sizes:
    """Channels that may be cut, and what the whole network costs: before and after."""
    before, after = cost.count(bench.coupling), cost.count(bench.coupling, plan.kept)
    return Sizes(
        channels=Change(sum(len(mask) for mask in plan.masks.values()), sum(plan.kept.values())),
        params=Change(before.params, after.params),
        macs=Change(before.macs, after.macs),
        bytes=Change(before.bytes, after.bytes),
    )


def timed(bench: Bench, small: nn.Module) -> Change:
    """Median milliseconds of one sample, dense and pruned."""

    def medians() -> tuple[float, float]:
        found = compare(bench.dense, small, bench.session.example(1), range(ROUNDS))
        return found.dense.median, found.pruned.median

    return Change(*ranks.once(medians, 2))


def verified(bench: Bench, made: Cut) -> Verified:
    """The proof of a cut, in words."""
    frozen = [f"{name}: {reason}" for name, reason in made.frozen.items()]
    return Verified(made.proof.max_relative_error, frozen, _inexact(bench, made.plan))


def _inexact(bench: Bench, plan: PruningPlan) -> list[str]:
    """Norms whose statistics lost channels."""
    lost = {name for name, mask in plan.masks.items() if not bool(mask.all())}
    tensors = {s.tensor for layer in bench.coupling.layers if layer.name in lost for s in layer.slices}
    return sorted(name.rpartition(".")[0] for name in tensors & bench.coupling.norms)
