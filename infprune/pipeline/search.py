"""The largest rate whose loss of accuracy stays within a limit, measured on the validation split."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from infprune import pricing, sensitivity
from infprune.config import Config
from infprune.errors import BudgetError
from infprune.evaluation import evaluate
from infprune.pipeline import cutting, gates
from infprune.pipeline.agreement import agreement
from infprune.pipeline.bench import Bench
from infprune.pipeline.prune_results import Probe, Search
from infprune.pipeline.shrink import distilled
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress, Silent
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, PruningPlan

PROBES = 6  # rates tried: the result is within 0.95 / 2^6 = 0.015 of the largest
HIGHEST = 0.95


@dataclass(frozen=True)
class Settled:
    """A bench whose budget is known; `search` tells how, None: it was configured."""

    bench: Bench
    search: Search | None


def settled(bench: Bench, scores: ChannelScores, watch: Stopwatch, progress: Progress) -> Settled:
    """Search the rate if `max_drop` decides it; the rate found is then the budget, and what is recorded."""
    prune = bench.session.config.prune
    if not searches(bench.session.config):
        return Settled(bench, None)
    assert prune.max_drop is not None
    with watch.stage("search"):
        found = largest_rate(bench, scores, prune.max_drop, progress)
    config = bench.session.config.model_copy(update={"prune": prune.model_copy(update={"rate": found.rate})})
    return Settled(replace(bench, session=replace(bench.session, config=config)), found)


def searches(settings: Config) -> bool:
    """Whether `max_drop` decides how much is cut: no budget was asked for."""
    return settings.prune.max_drop is not None and not settings.prune.model_fields_set & set(settings.prune.one_of)


def largest_rate(bench: Bench, scores: ChannelScores, max_drop: float, progress: Progress) -> Search:
    """Bisect the rate: cut, compensate, distil and measure on validation samples each time.

    Args:
        bench: the dense network and its data.
        scores: of its channels.
        max_drop: how far the validation accuracy may fall.
        progress: told once per rate.

    Raises:
        BudgetError: no rate that was tried stays within the limit.
    """
    before = evaluate(bench.dense, bench.validation).accuracy
    fixed = sum(bench.limits.fixed(layer) or 0 for layer in bench.layers)  # gone at any rate
    least = fixed / sum(layer.size for layer in bench.layers)
    low, high, probes = least, HIGHEST, list[Probe]()
    with progress.bar("rates", PROBES) as bar:
        for _ in range(PROBES):
            rate = (low + high) / 2
            try:
                probes.append(_probe(bench, scores, rate))
                fits = gates.within(before - probes[-1].accuracy, max_drop)
            except BudgetError:  # the floors do not allow it
                fits = False
            low, high = (rate, high) if fits else (low, rate)
            bar.advance(f"{rate:.3f}")
    if low == least:
        first = min(probes, key=lambda probe: probe.rate, default=None)
        told = "" if first is None else f" (dense {before:.4f}, {first.accuracy:.4f} at rate {first.rate:.3f})"
        raise BudgetError(
            f"max_drop {max_drop:g}: every rate that was tried loses more validation accuracy{told}; "
            "allow a larger drop, or give a rate"
        )
    probes.sort(key=lambda probe: probe.rate)
    return Search(low, before, probes, _correlation(probes))


def _probe(bench: Bench, scores: ChannelScores, rate: float) -> Probe:
    session = bench.session
    made = cutting.cut(
        bench.dense, bench.coupling, bench.layers, scores, Budget(rate=rate), bench.limits, session.example(8)
    )
    small: nn.Module = made.module
    if bench.correction is not None:
        small = cutting.compensate(
            bench.dense,
            made,
            bench.coupling,
            bench.correction,
            session.calibration(),
            bench.validation,
            Silent(),
        )
    last = distilled(bench, small, session.config.run.seed, Silent()) if bench.correction is not None else small
    return Probe(
        rate,
        predicted(scores, made.plan),
        sensitivity.distance(bench.dense, small, bench.trial_samples),
        evaluate(last, bench.validation).accuracy,
        None if last is small else sensitivity.distance(bench.dense, last, bench.trial_samples),
    )


def predicted(scores: ChannelScores, plan: PruningPlan) -> float | None:
    """The sum of what the layers lose alone; None without curves."""
    if not scores.curves:
        return None
    lost = 0.0
    for name, kept in plan.kept.items():
        ascending = scores.values[name].sort().values
        lost += float(pricing.cumulative(ascending, scores.curves[name])[len(ascending) - kept])
    return lost


def _correlation(probes: list[Probe]) -> float | None:
    """Pearson's r of predicted and measured losses; None for fewer than three, which would lie on a line anyway."""
    pairs = [(p.predicted, p.measured) for p in probes if p.predicted is not None]
    return agreement(*torch.tensor(pairs, dtype=torch.float64).T).r if len(pairs) > 2 else None
