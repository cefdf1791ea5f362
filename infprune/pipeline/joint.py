"""Pruning in the middle of fine-tuning, or learned by it: some epochs, surgery, the rest of the epochs."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn

from infprune import ranks, selection
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
from infprune.pipeline.score import scored
from infprune.pipeline.shrink import Order, Shrunk, shrink
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


def prepared(bench: Bench) -> Bench:
    """Settings that mean something while weights move: bare ranking (CP section 2.4) for calibrated, no compensation.

    Cutting midway scores and compensates as always.

    Raises:
        ConfigError: a budget or a number of epochs that the method cannot work with.
    """
    config = bench.session.config
    _check(config)
    if config.finetune.method == "midway":
        return bench
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
    whole = {} if method == "midway" else _unlearnable(bench.layers)
    bench = replace(bench, layers=tuple(layer for layer in bench.layers if layer.name not in whole))
    if not bench.layers:
        raise BudgetError(f"{method} has nothing to cut: {'; '.join(f'{n}: {why}' for n, why in whole.items())}")
    module = copy.deepcopy(bench.dense)
    recipe = replace(bench.session.recipe("finetune"), epochs=learning, total=epochs)
    plugin = _PLUGINS[method](bench, module)
    with watch.stage("learn"):
        trained = _train(bench, module, recipe, plugin, "joint", progress, resume=resume)
    bench = replace(bench, dense=trained.module.eval())
    handover = None
    if isinstance(plugin, InfCp):
        with watch.stage("cut"):
            made, scores, handover = _decided(bench, plugin)
        with watch.stage("evaluate"):
            shrunk = Shrunk(made.module, made, Accuracy(dense_accuracy, evaluate(made.module, bench.test).accuracy))
    else:
        criterion = "bn-scale" if method == "slimming" else settings.score.criterion
        with watch.stage("score"):
            scores = scored(bench, (criterion,), settings.run.seed, progress)[criterion]
        order = Order(bench.budget, settings.run.seed, finetune=False)
        shrunk = shrink(bench, scores, dense_accuracy, order, watch, progress)
    history = list(trained.history)
    if epochs > learning:
        rest = replace(recipe, epochs=epochs - learning, begun=learning)
        with watch.stage("finetune"):
            on = _train(bench, copy.deepcopy(shrunk.module), rest, Plugin(), "finetune", progress, resume=resume)
        history += on.history
        with watch.stage("evaluate"):
            accuracy = replace(shrunk.accuracy, finetuned=evaluate(on.module, bench.test).accuracy)
        shrunk = replace(shrunk, module=on.module, accuracy=accuracy)
    masks = [asdict(record) for record in plugin.history] if isinstance(plugin, InfCp) else []
    trace = JointTrace(method, learning, [asdict(epoch) for epoch in history], handover, masks)
    return Learned(shrunk, scores, whole, trace)


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
    method = settings.finetune.method
    if settings.prune.latency is not None and method != "midway":
        raise ConfigError(f"prune.latency: {method} cannot learn it; use prune.macs")
    if method == "inf-cp" and ranks.world() > 1:
        raise ConfigError("finetune.method: inf-cp learns its masks in one process; start it without torchrun")
    if settings.score.file is not None:
        raise ConfigError(f"score.file: {method} trains the network before it is cut; drop --scores")


def _unlearnable(layers: Sequence[ChannelLayer]) -> dict[str, str]:
    """Layers that are left whole, with the reason."""
    found = {}
    for layer in layers:
        if layer.inexact is not None:
            told = f"the statistics of {layer.inexact} run over its channels, so masks are not surgery"
            found[layer.name] = f"left whole: {told}"
        elif not filters(layer):
            found[layer.name] = "left whole: no weight makes its channels"
    return found


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


_PLUGINS: dict[str, Callable[[Bench, nn.Module], Plugin]] = {
    "midway": lambda _, __: Plugin(),
    "inf-cp": _inf_cp,
    "slimming": _slimming,
}


def _decided(bench: Bench, plugin: InfCp) -> tuple[cutting.Cut, ChannelScores, float]:
    """Carry out what was learned; with the scores, and how much surgery changed the outputs."""
    inputs = bench.session.example(8)
    made = cutting.carry_out(bench.dense, bench.coupling, plugin.plan(), inputs)
    handover, _ = difference(plugin.view(bench.dense), made.module, (inputs, noise_like(inputs, seed=0)))
    return made, _named({name: v.double().cpu() for name, v in plugin.influence.channels.items()}), handover


def _named(values: dict[str, Tensor]) -> ChannelScores:
    return ChannelScores("inf-cp", "loss (nats)", values)


def _train(
    bench: Bench,
    module: nn.Module,
    recipe: Recipe,
    plugin: Plugin,
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
