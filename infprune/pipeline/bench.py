"""What every pruning command opens first: the session, the dense network, its coupling, the layers that may be cut."""

from dataclasses import dataclass

from torch import nn

from infprune import ranks, selection
from infprune.config import Config
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.data.dataset import gather
from infprune.data.loaders import Batches, subset
from infprune.distillation import Distillation
from infprune.forward import Inputs, move
from infprune.models.attention import explicit
from infprune.models.checkpoint import digest
from infprune.pipeline import cutting
from infprune.pipeline.session import Session, open_coupling, open_model, open_session
from infprune.pipeline.stopwatch import Stopwatch


@dataclass(frozen=True)
class Bench:
    """A dense network, ready to be scored and cut."""

    session: Session
    dense: nn.Module
    coupling: Coupling
    layers: tuple[ChannelLayer, ...]

    @property
    def test(self) -> Batches:
        """The test split: reported, never used to decide."""
        return self.session.batches(self.session.splits.test)

    @property
    def validation(self) -> Batches:
        """The validation split: decides."""
        return self.session.batches(self.session.splits.validation)

    @property
    def budget(self) -> selection.Budget:
        """The configured budget."""
        prune = self.session.config.prune
        return selection.Budget(prune.rate, prune.macs, prune.params, prune.bytes, prune.latency)

    @property
    def correction(self) -> cutting.Correction | None:
        """The configured compensation; None: none."""
        prune = self.session.config.prune
        damping = None if prune.ls_damping == "auto" else prune.ls_damping
        how = cutting.Correction(prune.compensate, damping, self.session.config.data.positions)
        return None if prune.compensate == "none" else how

    @property
    def distillation(self) -> Distillation | None:
        """The configured distillation; None: none, as without compensation, or before fine-tuning on labels."""
        settings = self.session.config
        trained = settings.prune.finetune or settings.finetune.method != "standard"
        if trained or settings.prune.compensate == "none" or not settings.prune.distill:
            return None
        return Distillation(
            settings.prune.distill, settings.data.batch_size, self.session.augment(), self.session.precision
        )

    @property
    def trial_samples(self) -> Inputs:
        """The validation samples on which layers are narrowed one by one: drawn, as files may lie class by class."""
        split, settings = self.session.splits.validation, self.session.config
        if settings.score.trial_samples < len(split):
            split = subset(split, settings.score.trial_samples, settings.run.seed)
        return move(gather(split, range(len(split)))[0], self.session.device)

    @property
    def limits(self) -> selection.Limits:
        """The configured scope, floor and rounding."""
        prune = self.session.config.prune
        return selection.Limits(prune.scope, prune.floor, prune.round_to, prune.per_layer)


def open_bench(settings: Config, command: str, watch: Stopwatch) -> Bench:
    """Load data and network, and couple it."""
    with watch.stage("load"):
        session = open_session(settings, command)
        dense = explicit(open_model(session))
    return bench_of(session, dense, watch)


def bench_of(session: Session, dense: nn.Module, watch: Stopwatch) -> Bench:
    """Couple a network whose attention is explicit."""
    with watch.stage("coupling"):
        ranks.alike("weights", digest(dense))
        coupling = open_coupling(dense, session)
        found = [(layer.name, layer.size, layer.frozen) for layer in coupling.layers]
        ranks.alike("coupling (did a trial run out of time?)", str(found))
        layers = selection.prunable(coupling, session.config.prune.protect)
    return Bench(session, dense, coupling, layers)
