"""Pruning that is learned while fine-tuning: masks or penalties, surgery, and the rest of the epochs."""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn

from infprune import selection
from infprune.config import Config
from infprune.coupling.groups import ChannelLayer
from infprune.curvature.products import filters
from infprune.errors import BudgetError, ConfigError
from infprune.evaluation import evaluate
from infprune.forward import noise_like, uncalled
from infprune.joint import InfCp, Slimming
from infprune.joint.inf_cp import Settings
from infprune.pipeline import cutting
from infprune.pipeline.bench import Bench
from infprune.pipeline.results import Accuracy, JointTrace
from infprune.pipeline.shrink import Shrunk
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.proof import difference
from infprune.scores.contract import ChannelScores, ScoringInputs, Statistics
from infprune.scores.measure import score
from infprune.training import Plugin, Recipe, Trained, train


@dataclass(frozen=True)
class Learned:
    """The network cut and trained on, the scores that decided, the layers left whole and why, and how it went."""

    shrunk: Shrunk
    scores: ChannelScores
    whole: dict[str, str]
    trace: JointTrace


def without_scores(bench: Bench) -> Bench:
    """Settings that mean something while weights move: bare ranking (CP section 2.4) for calibrated, no compensation.

    Raises:
        ConfigError: a budget or a number of epochs that the method cannot work with.
    """
    config = bench.session.config
    _check(config)
    scope = "global" if config.prune.scope == "calibrated" else config.prune.scope
    prune = config.prune.model_copy(update={"scope": scope, "compensate": "none"})
    return replace(bench, session=replace(bench.session, config=config.model_copy(update={"prune": prune})))


def learn(bench: Bench, dense_accuracy: float, watch: Stopwatch, progress: Progress, *, resume: bool) -> Learned:
    """Train with the configured method, cut what it decided, train on.

    Raises:
        BudgetError: the floors of the layers that it can learn do not allow the budget.
    """
    settings = bench.session.config
    method, epochs, learning = settings.finetune.method, settings.finetune.epochs, _learning(settings)
    whole = {layer.name: reason for layer in bench.layers if (reason := _unlearnable(layer)) is not None}
    bench = replace(bench, layers=tuple(layer for layer in bench.layers if layer.name not in whole))
    if not bench.layers:
        raise BudgetError(f"{method} has nothing to cut: {'; '.join(f'{n}: {why}' for n, why in whole.items())}")
    module = copy.deepcopy(bench.dense)
    recipe = replace(bench.session.recipe("finetune"), epochs=learning, total=epochs)
    plugin = _inf_cp(bench, module) if method == "inf-cp" else _slimming(bench, module)
    with watch.stage("learn"):
        trained = _train(bench, module, recipe, plugin, "joint", progress, resume=resume)
    with watch.stage("cut"):
        made, scores, handover = _cut(bench, trained.module, plugin)
    with watch.stage("evaluate"):
        accuracy = Accuracy(dense_accuracy, evaluate(made.module, bench.test).accuracy)
    small, history = made.module, list(trained.history)
    if epochs > learning:
        rest = replace(recipe, epochs=epochs - learning, begun=learning)
        with watch.stage("finetune"):
            on = _train(bench, copy.deepcopy(small), rest, None, "finetune", progress, resume=resume)
        small, history = on.module, [*history, *on.history]
        with watch.stage("evaluate"):
            accuracy = replace(accuracy, finetuned=evaluate(small, bench.test).accuracy)
    masks = [asdict(record) for record in plugin.history] if isinstance(plugin, InfCp) else []
    trace = JointTrace(method, learning, [asdict(epoch) for epoch in history], handover, masks)
    return Learned(Shrunk(small, made, accuracy), scores, whole, trace)


def _learning(settings: Config) -> int:
    """Epochs that learn what to cut."""
    half = math.ceil(settings.finetune.epochs / 2)
    return half if settings.joint.epochs is None else settings.joint.epochs


def _check(settings: Config) -> None:
    epochs, learning = settings.finetune.epochs, _learning(settings)
    if not 1 <= learning <= epochs:
        raise ConfigError(
            f"joint.epochs: expected 1 to {epochs} (finetune.epochs), got {learning}; raise finetune.epochs"
        )
    if settings.prune.latency is not None:
        raise ConfigError(f"prune.latency: {settings.finetune.method} cannot learn it; use prune.macs")


def _unlearnable(layer: ChannelLayer) -> str | None:
    if layer.inexact is not None:
        return f"left whole: the statistics of {layer.inexact} run over its channels, so masks are not surgery"
    return None if filters(layer) else "left whole: no weight makes its channels"


def _inf_cp(bench: Bench, module: nn.Module) -> InfCp:
    j = bench.session.config.joint
    settings = Settings(j.beta, j.growth, j.lr, j.decay, j.order, j.apart, j.target, j.rescale)
    limits = bench.limits

    def select(scores: Mapping[str, Tensor]) -> selection.PruningPlan:
        return selection.select(bench.coupling, bench.layers, _named(dict(scores)), bench.budget, limits)

    return InfCp(module, bench.layers, select, settings)


def _slimming(bench: Bench, module: nn.Module) -> Slimming:
    score("bn-scale", ScoringInputs(module, bench.layers, Statistics()))  # no norm behind a layer: told before training
    return Slimming(module, bench.layers, bench.session.config.joint.l1)


def _named(values: dict[str, Tensor]) -> ChannelScores:
    return ChannelScores("inf-cp", "loss (nats)", values)


def _cut(bench: Bench, module: nn.Module, plugin: Plugin) -> tuple[cutting.Cut, ChannelScores, float | None]:
    inputs = bench.session.example(8)
    if not isinstance(plugin, InfCp):
        scores = score("bn-scale", ScoringInputs(module, bench.layers, Statistics()))
        made = cutting.cut(module, bench.coupling, bench.layers, scores, bench.budget, bench.limits, inputs)
        return made, scores, None
    plan = plugin.plan()
    made = cutting.carry_out(module, bench.coupling, plan, inputs)
    handover, _ = difference(plugin.view(module), made.module, (inputs, noise_like(inputs, seed=0)))
    influence = {name: v.double().cpu() for name, v in plugin.influence.channels.items()}
    return made, _named(influence), handover


def _train(
    bench: Bench,
    module: nn.Module,
    recipe: Recipe,
    plugin: Plugin | None,
    name: str,
    progress: Progress,
    *,
    resume: bool,
) -> Trained:
    session = bench.session
    sections = (session.config.prune.model_dump_json(), session.config.joint.model_dump_json())
    return train(
        module,
        session.splits.train,
        bench.validation,
        recipe,
        seed=session.config.run.seed,
        origin=" ".join((session.data_identity, session.config.finetune.method, *sections)),
        augment=session.augment(),
        auxiliary=uncalled(module, session.example()),
        plugin=plugin,
        checkpoint=session.folder / f"{name}.ckpt",
        resume=resume,
        progress=progress,
    )
