"""Which passes over the calibration data a run takes, by what its device can hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune import forward
from infprune.coupling.groups import ChannelLayer
from infprune.errors import ConfigError
from infprune.estimate import Estimate, estimate
from infprune.forward import Inputs
from infprune.passes import Passes, advice, planned, whole_batches, without_factors
from infprune.pipeline.bench import Bench
from infprune.pipeline.memory import budget
from infprune.scores.contract import Need
from infprune.scores.measure import needs_of


@dataclass(frozen=True)
class Pass:
    """The criteria and layers that are scored from it, what it collects, and samples at a time (None: a batch)."""

    criteria: tuple[str, ...]
    layers: Sequence[ChannelLayer]
    needs: frozenset[Need]
    batch: int | None = None

    def split(self, batches: Iterable[tuple[Inputs, Tensor]]) -> Iterator[tuple[Inputs, Tensor]]:
        """The samples of each batch, as many at a time as fit."""
        for x, y in batches:
            size = self.batch or max(1, len(y))
            yield from zip(forward.split(x, size), torch.split(y, size), strict=True)


def planned_passes(bench: Bench, criteria: tuple[str, ...], needs: frozenset[Need]) -> list[Pass]:
    """One pass for everything if the estimate is within the budget; else as `infprune.passes.planned` says.

    Where factors are shared out over passes, what needs none has a pass of its own, over all layers. `inf-cp` takes one
    value per batch, which batches cut small would change: it keeps whole ones. The last pass collects all of `needs`
    that no criterion asks for.

    Raises:
        ConfigError: what cannot be split is estimated to take more than `score.memory`.
    """
    whole = Pass(criteria, bench.layers, needs)
    if not needs:
        return [whole]
    data, example = bench.session.config.data, bench.session.example()
    size = min(data.batch_size, data.calibration)
    found = estimate(
        bench.dense, bench.coupling, bench.layers, example,
        batch=size, samples=data.calibration, positions=data.positions, kronecker=Need.KRONECKER in needs,
    )  # fmt: skip
    extra = needs - needs_of(criteria)
    room = budget(bench.session.config, bench.session.device)
    plan = planned(found, bench.layers, room, together=bool(extra))
    _check(bench, found, plan, room)
    if Need.MASK_GRADIENTS in needs:
        gates = without_factors(found)
        _check(bench, gates, whole_batches(gates, bench.layers), room)
    if len(plan.parts) == 1 and plan.batch == size:
        return [whole]
    apart = {Need.MASK_GRADIENTS} if len(plan.parts) == 1 else set(Need) - {Need.KRONECKER}
    rest = tuple(name for name in criteria if not needs_of([name]) or needs_of([name]) & apart)
    parted = tuple(name for name in criteria if name not in rest)
    passes = []
    if rest:
        batch = None if Need.MASK_GRADIENTS in needs_of(rest) else plan.batch
        passes.append(Pass(rest, bench.layers, needs_of(rest), batch))
    if parted:
        passes += [Pass(parted, part, needs_of(parted), plan.batch) for part in plan.parts]
    last = passes.pop()
    return [*passes, Pass(last.criteria, last.layers, last.needs | extra, last.batch)]


def _check(bench: Bench, found: Estimate, plan: Passes, room: float) -> None:
    """Of a budget that was asked for: that of the device is tried, as the estimate may be too high."""
    if plan.peak > room and bench.session.config.score.memory is not None:
        told = "; ".join(advice(found, bench.layers, plan, room))
        raise ConfigError(f"scoring cannot stay within score.memory={bench.session.config.score.memory:g}: {told}")
