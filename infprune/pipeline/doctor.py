"""`infprune doctor`: what can be cut in a network, what cannot, and why; nothing is scored, cut or written."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from infprune import artifacts, cost, selection
from infprune.config import Config
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.errors import ArchitectureError, Stopped
from infprune.forward import Inputs, tensors
from infprune.models import SHIPPED
from infprune.models.attention import explicit
from infprune.pipeline.bounds import Bounds, installed
from infprune.pipeline.doctor_results import Diagnosis, DoctorResult, Extent, SliceRow
from infprune.pipeline.memory import within_memory
from infprune.pipeline.results import Change
from infprune.pipeline.session import (
    check_logits,
    describing,
    example_inputs,
    network,
    open_session,
    outputs,
    prepare,
    spec_of,
)
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.trial import UNTRIED, settle
from infprune.units import GIB

SAMPLES = 2
SEARCH = 0.8  # share of the time after which trial cuts end by themselves and keep what they found
MEMORY = 0.9  # share of the machine's
NOISE = 0.1


@dataclass(frozen=True)
class Limits:
    """`seconds` for everything; `memory` in GiB that the process may hold, None: nine tenths of the machine's."""

    seconds: float = 300.0
    memory: float | None = None


@dataclass(frozen=True)
class Patient:
    """A network with one batch of its inputs, and where its weights come from."""

    module: nn.Module
    example: Inputs
    weights: str


@within_memory
def run(path: Path | None, settings: Config, limits: Limits, progress: Progress) -> DoctorResult:
    """Couple the configured network, or the one in a file, try the cuts, and tell what was found.

    Raises:
        ArchitectureError: the network cannot be built or traced, or not within the limits.
    """
    watch = Stopwatch()
    bounds = Bounds(limits.seconds, installed() * MEMORY if limits.memory is None else limits.memory * GIB)
    stage = "built"
    try:
        with bounds, progress.bar("doctor", 2) as bar:
            with watch.stage("load"):
                patient = _configured(settings) if path is None else _from_file(path, settings)
            stage = "traced and coupled"
            bar.advance("tracing and trying cuts")
            with watch.stage("coupling"):
                heads, seconds = settings.prune.heads, SEARCH * limits.seconds - watch.seconds["load"]
                coupling = settle(patient.module, patient.example, heads=heads, seconds=seconds, progress=progress)
            bar.advance()
    except Stopped:
        raise ArchitectureError(
            f"{settings.model.called}: stopped before it was {stage}, {bounds.over}; "
            "allow more with --seconds or --memory"
        ) from None
    rows = _rows(coupling, settings)
    able = [row for row in rows if row.frozen is None]
    untried = sum((row.frozen or "").startswith(UNTRIED) for row in rows)
    late = f"{SEARCH * limits.seconds:g} of {limits.seconds:g} s are over" if untried else None
    dense = cost.count(coupling)
    least = cost.count(coupling, {row.name: min(row.channels, settings.prune.round_to) for row in able})
    return DoctorResult(
        model=settings.model.called,
        source=None if path is None else str(path),
        weights=patient.weights,
        inputs=[spec_of(t).model_dump() for t in tensors(patient.example)],
        prunable=_extent(able),
        total=_extent(rows),
        params=Change(dense.params, least.params),
        macs=Change(dense.macs, least.macs),
        layers=rows,
        untried=untried,
        stopped=bounds.over or late,
        seconds=watch.seconds,
        peak_bytes=bounds.peak,
    )


def _configured(settings: Config) -> Patient:
    """The configured network; initial weights if it has no others, inputs from `model.inputs`, else from the data."""
    weights = settings.model.checkpoint
    if weights == "shipped" and settings.model.name not in SHIPPED:
        weights = "random"
    if settings.model.inputs is not None:
        device = prepare(settings)
        module = _weighted(settings, weights).to(device).eval()
        example = example_inputs(settings, SAMPLES, device)
        outputs(module, example, settings.model.called, "model.inputs")
        return Patient(explicit(module), example, weights)
    session = open_session(settings, "doctor")
    module = _weighted(settings, weights).to(session.device).eval()
    try:
        check_logits(module, session)
    except ArchitectureError as error:
        hint = "model.inputs='[{shape: [3, 224, 224]}]'"
        raise ArchitectureError(f"{error}; name its data, or describe its inputs: {hint}") from error
    return Patient(explicit(module), session.example(SAMPLES), weights)


def _from_file(path: Path, settings: Config) -> Patient:
    """The network in a file that infprune wrote, on inputs as its manifest describes them."""
    device = prepare(settings)
    loaded = artifacts.load(path, factory=settings.model.factory, device=device)
    if settings.model.inputs is None:
        settings = describing(settings, loaded.manifest.inputs, path)
    return Patient(explicit(loaded.module), example_inputs(settings, SAMPLES, device), str(path))


@torch.no_grad()
def _weighted(settings: Config, weights: str) -> nn.Module:
    """The network; if it has initial weights, those that are all alike are made different.

    A branch that starts at zero, or scaled by 1e-6, would hide that its cut is wrong.
    """
    module = network(settings, trained=weights != "random")
    if weights == "random":
        for p in module.parameters():
            if p.is_floating_point() and bool((p == p.flatten()[:1]).all()):
                p.add_(NOISE * torch.randn_like(p))
    return module


def _rows(coupling: Coupling, settings: Config) -> list[Diagnosis]:
    dense, freed = cost.count(coupling), cost.freed_by_layer(coupling)

    def row(layer: ChannelLayer) -> Diagnosis:
        protected = "protected" if selection.protected(layer, settings.prune.protect) else None
        return Diagnosis(
            name=layer.name,
            channels=layer.size,
            macs_share=freed[layer.name].macs / dense.macs if dense.macs else 0.0,
            params_share=freed[layer.name].params / dense.params,
            frozen=layer.frozen or protected,
            inexact=layer.inexact,
            gated=layer.gated,
            slices=[SliceRow(s.tensor, s.dim, s.role.value, int(s.index.shape[1])) for s in layer.slices],
        )

    return [row(layer) for layer in coupling.layers]


def _extent(rows: list[Diagnosis]) -> Extent:
    return Extent(len(rows), sum(row.channels for row in rows))
