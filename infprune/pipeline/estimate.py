"""`infprune doctor --estimate`: configuration -> what scoring would take, without a weight being allocated."""

from collections.abc import Sequence

import torch
from torch import nn

from infprune import cost, passes, selection
from infprune.config import Config
from infprune.coupling.couple import couple
from infprune.coupling.groups import ChannelLayer
from infprune.errors import ArchitectureError, InfpruneError
from infprune.estimate import Estimate, Rates, estimate, measured_rates
from infprune.forward import Inputs, move, tensors
from infprune.imports import one_line
from infprune.models.attention import explicit
from infprune.models.build import build
from infprune.passes import Passes, planned, whole_batches
from infprune.pipeline.estimate_results import EstimateResult, MemoryRow, PassesRow, WorkRow
from infprune.pipeline.memory import budget as allowed
from infprune.pipeline.session import example_inputs, open_session, prepare, spec_of
from infprune.progress import Progress
from infprune.scores.contract import Need
from infprune.scores.measure import needs_of
from infprune.units import GIB, WIDEST

SAMPLES = 2


def run(settings: Config, memory: float | None, progress: Progress) -> EstimateResult:
    """Build the network on the meta device, couple it there and count.

    Cuts are not tried, since nothing can be computed: layers whose cut would fail count as prunable.

    Raises:
        ArchitectureError: it cannot be built without memory, or not traced.
    """
    example = _example(settings)
    with progress.bar("estimate", 2) as bar:
        module = _shapes(settings)
        bar.advance("tracing")
        coupling = couple(module, example)
        bar.advance()
    layers = selection.prunable(coupling, settings.prune.protect)
    needs = needs_of([settings.score.criterion])
    found = estimate(
        module, coupling, layers, example,
        batch=settings.data.batch_size, samples=settings.data.calibration, positions=settings.data.positions,
        kronecker=Need.KRONECKER in needs,
    )  # fmt: skip
    rates = measured_rates()
    budget = int(allowed(settings, torch.device("cpu")) if memory is None else memory * GIB)
    plan = planned(found, layers, budget, together=settings.prune.scope == "calibrated")
    if Need.MASK_GRADIENTS in needs:  # one value per batch: they stay whole
        plan = whole_batches(found, layers)
    total = cost.count(coupling)
    return EstimateResult(
        model=settings.model.called,
        inputs=[spec_of(t).model_dump() for t in tensors(example)],
        criterion=settings.score.criterion,
        samples=settings.data.calibration,
        batch_size=settings.data.batch_size,
        positions=settings.data.positions,
        params=total.params,
        macs=total.macs,
        channels=_channels(layers),
        widest=found.widest,
        memory=MemoryRow(found.weights, found.activations, found.factors, found.solving, found.peak, budget),
        work=_work(found, rates, len(plan.parts)),
        passes=PassesRow(len(plan.parts), plan.batch, plan.factors, plan.peak),
        seconds_expected=found.seconds(rates, len(plan.parts)),
        advice=advice(found, layers, plan, budget, "" if memory is None else f", with score.memory={memory:g}"),
    )


def _example(settings: Config) -> Inputs:
    if settings.model.inputs is not None:
        prepare(settings)
        return move(example_inputs(settings, SAMPLES, "cpu"), "meta")
    return move(open_session(settings, "doctor").example(SAMPLES), "meta")


def _shapes(settings: Config) -> nn.Module:
    """The configured network without weights."""
    m = settings.model
    try:
        with torch.device("meta"):
            module = build(m.name, m.factory, dict(m.args))
        return explicit(module.to("meta").eval())
    except InfpruneError:
        raise
    except Exception as error:
        raise ArchitectureError(
            f"{m.called}: cannot be built without memory ({one_line(error)}); its code computes with its "
            "weights when it is built"
        ) from error


def _channels(layers: tuple[ChannelLayer, ...]) -> int:
    return sum(layer.size for layer in layers)


def _work(found: Estimate, rates: Rates, passes: int) -> WorkRow:
    return WorkRow(
        forward=found.forward,
        backward=found.backward,
        gram=found.gram,
        factorising=found.factorising,
        network_seconds=passes * (found.forward + found.backward) / rates.network,
        gram_seconds=found.gram / rates.products,
        factorising_seconds=found.factorising / rates.factorising,
    )


def advice(
    found: Estimate, layers: Sequence[ChannelLayer], plan: Passes, budget: float, setting: str = ""
) -> list[str]:
    """What cannot be scored at all, and what scoring does to stay below the budget, or what else would."""
    told = passes.advice(found, layers, plan, budget, setting)
    if found.widest <= WIDEST:
        return told
    wide = (
        f"a weight reads {found.widest:,} inputs, more than the {WIDEST:,} that are scored: "
        "score.criterion=gate, or prune.protect the layer before it"
    )
    return [wide, *told]
