"""`infprune prune --dry-run`: what would be cut, and what that costs; nothing is corrected, trained or written."""

from dataclasses import dataclass

from torch import nn

from infprune import cost, ranks
from infprune.config import Config
from infprune.errors import ConfigError
from infprune.latency import compare
from infprune.pipeline import cutting, gates
from infprune.pipeline.bench import Bench, open_bench
from infprune.pipeline.memory import within_memory
from infprune.pipeline.results import Change, PlanResult, Verified
from infprune.pipeline.score import measured, rows
from infprune.pipeline.search import predicted, settled
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
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


@within_memory
def run(settings: Config, progress: Progress) -> PlanResult:
    """Score, select, cut and prove in memory, as `infprune prune` will: the same layers keep the same widths.

    Raises:
        ConfigError: the network would be trained before the cut.
    """
    if settings.finetune.method != "standard":
        raise ConfigError(
            f"--dry-run: finetune.method={settings.finetune.method} trains before it cuts; drop one of the two"
        )
    watch = Stopwatch()
    bench = open_bench(settings, "prune", watch)
    with watch.stage("score"):
        scores = measured(bench, progress)
    known = settled(bench, scores, watch, progress)
    bench = known.bench
    prune, session = bench.session.config.prune, bench.session
    with watch.stage("cut"):
        made = cutting.cut(
            bench.dense, bench.coupling, bench.layers, scores, bench.budget, bench.limits, session.example(8)
        )
    with watch.stage("latency"):
        latency = timed(bench, made.module)
    judged = gates.of_prune(session.config, latency, None)
    size = sizes(bench, made.plan)
    return PlanResult(
        model=session.model_name,
        data=session.data_name,
        criterion=scores.criterion,
        scope=prune.scope,
        rate=prune.rate,
        rate_achieved=made.plan.rate,
        channels=size.channels,
        params=size.params,
        macs=size.macs,
        bytes=size.bytes,
        latency_ms=latency,
        predicted=predicted(scores, made.plan),
        verified=verified(bench, made),
        layers=rows(bench.coupling, scores, made.plan, made.frozen),
        gates=judged,
        missed=gates.missed(judged),
        seconds=watch.seconds,
        search=known.search,
    )


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


def verified(bench: Bench, made: cutting.Cut) -> Verified:
    """The proof of a cut, in words."""
    frozen = [f"{name}: {reason}" for name, reason in made.frozen.items()]
    return Verified(made.proof.max_relative_error, frozen, _inexact(bench, made.plan))


def _inexact(bench: Bench, plan: PruningPlan) -> list[str]:
    """Norms whose statistics lost channels."""
    lost = {name for name, mask in plan.masks.items() if not bool(mask.all())}
    tensors = {s.tensor for layer in bench.coupling.layers if layer.name in lost for s in layer.slices}
    return sorted(name.rpartition(".")[0] for name in tensors & bench.coupling.norms)
