"""The only training loop: train from scratch and fine-tune after the cut."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from infprune import ranks
from infprune.data.augment import none
from infprune.data.dataset import Samples, gather
from infprune.data.loaders import Batches, rows, shared_batches
from infprune.errors import ConfigError, InputError
from infprune.evaluation import evaluate
from infprune.files import atomic_write, exists
from infprune.forward import Inputs, logits, move
from infprune.layout import Arrange, arrangement
from infprune.models.checkpoint import digest, read_pickle, verify_sums
from infprune.modes import passing_by
from infprune.parallel import Replica, counted, weight
from infprune.progress import Progress, Silent


@dataclass(frozen=True)
class Recipe:
    """How to train. `lr` is the peak; `warmup_epochs` and the schedule are followed step by step.

    A run of several parts has one schedule of `total` epochs (None: this part's); `begun` of them lie before this part.
    """

    epochs: int
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    batch_size: int = 128
    clip_norm: float | None = None
    augment: str = "none"
    precision: str = "float32"
    begun: int = 0
    total: int | None = None


@dataclass(frozen=True)
class Epoch:
    """`loss` and `train_accuracy` are running means over the epoch's training batches, not measurements of a model."""

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float


class Plugin:
    """Takes part in training, besides the network. This one does nothing; subclasses override what they need."""

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        """Run the network on a training batch."""
        return logits(module, x)

    def loss(self, z: Tensor, y: Tensor, smoothing: float) -> Tensor:
        """Mean loss of logits `(N, K)` and labels `(N,)`; `smoothing` is the weight of the uniform label."""
        return F.cross_entropy(z, y, label_smoothing=smoothing)

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the batch that `logits` saw last; None: nothing."""
        return None

    def observe(self, module: nn.Module) -> None:
        """See the gradients of a batch, before the optimizer uses them; may change them."""

    def step(self, done: float) -> None:
        """End a step; `done` is the share of all steps that are behind."""

    def view(self, module: nn.Module) -> nn.Module:
        """The network to be judged after an epoch."""
        return module

    def note(self) -> str:
        """A few words for the progress bar."""
        return ""

    def state(self) -> dict[str, Any]:
        """Everything that changes, for a checkpoint: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`; KeyError, ValueError or RuntimeError if it belongs to another run."""


@dataclass(frozen=True)
class Trained:
    """The network after the last epoch (its moving average if the recipe keeps one), and the epochs run."""

    module: nn.Module
    history: tuple[Epoch, ...]


@dataclass
class _State:
    """What a checkpoint holds."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    plugin: Plugin
    history: list[Epoch] = field(default_factory=list)


def train(
    module: nn.Module,
    data: Samples,
    validation: Batches,
    recipe: Recipe,
    *,
    seed: int,
    origin: str = "",
    augment: Callable[..., Inputs] = none,
    auxiliary: Sequence[nn.Module] = (),
    plugin: Plugin | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = Silent(),  # noqa: B008 - stateless
) -> Trained:
    """Train `module` in place for `recipe.epochs` epochs.

    The loss is that of the logits alone (see `forward.logits`): auxiliary logits that train mode adds are ignored.

    Order, dropout and augmentation of an epoch depend on `(seed, epoch)` alone, so a run that is resumed from its
    last checkpoint ends with the same weights as one that was never interrupted.

    Several ranks share each batch by rows and end with the weights of one process, to rounding; only dropout, which
    every rank draws for its own rows, differs.

    Args:
        module: on the device to train on.
        data: training samples.
        validation: judged after each epoch; selects nothing.
        recipe: how.
        seed: of everything random.
        origin: what the run starts from besides the weights, e.g. the data; a checkpoint of another origin is refused.
        augment: changes a batch of inputs, `(x, rows=...)`; see `data.augment`.
        auxiliary: modules to pass by, because only train mode calls them and a cut has left them behind.
        plugin: takes part in every step, and is saved and restored with the network.
        checkpoint: written after every epoch, atomically; None for none.
        resume: continue from `checkpoint` if it exists.
        progress: told every step.

    Raises:
        ConfigError: the checkpoint to resume belongs to another recipe or network; or a step has a single sample.
        InputError: the loss is not finite, or the checkpoint is unreadable.
    """
    if recipe.epochs and min(recipe.batch_size, len(data)) < 2:
        raise ConfigError(
            "training: expected steps of two or more samples, between which batch norm finds a variance, got 1; raise "
            "the batch_size of train, finetune or data, or give more samples"
        )
    origin = f"{digest(module)} {origin}"
    state = _start(module, recipe, plugin or Plugin())
    ranks.alike("weights and data", origin)
    if resume and checkpoint is not None and ranks.once(lambda: [exists(checkpoint)], 1)[0]:
        _restore(state, recipe, seed, origin, checkpoint)
    with passing_by(auxiliary):
        example = move(gather(data, [i % len(data) for i in range(2)])[0], _device(module))
        replica, arrange = Replica(module, example), arrangement(module, example)
    work = _Work(state, replica, recipe, len(data), seed, augment, arrange)
    total = recipe.total or recipe.epochs
    for epoch in range(recipe.begun + len(state.history), recipe.begun + recipe.epochs):
        torch.manual_seed(_mix(seed, epoch))
        loader = shared_batches(data, recipe.batch_size, _mix(seed, epoch), _device(module))
        with progress.bar(f"epoch {epoch + 1}/{total}", work.steps) as bar, passing_by(auxiliary):
            loss, accuracy = _epoch(work, loader, epoch, bar.advance)
        judged = evaluate(state.plugin.view(_result(state)), validation)
        state.history.append(Epoch(epoch + 1, loss, accuracy, judged.accuracy))
        if checkpoint is not None and ranks.leads():
            _save(state, recipe, seed, origin, checkpoint)
    return Trained(_result(state), tuple(state.history))


@dataclass(frozen=True)
class _Work:
    """What an epoch is made of."""

    state: _State
    replica: Replica
    recipe: Recipe
    samples: int
    seed: int
    augment: Callable[..., Inputs]
    arrange: Arrange

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.recipe.batch_size)


def _epoch(work: _Work, loader: Batches, epoch: int, tell: Callable[[str], None]) -> tuple[float, float]:
    state, recipe, steps = work.state, work.recipe, work.steps
    state.module.train()
    total, right, seen = 0.0, 0, 0
    for i, (x, y) in enumerate(loader):
        part = rows(min(recipe.batch_size, work.samples - i * recipe.batch_size))
        if part.total < 2:  # the last one: batch norm has no variance to estimate
            continue
        for group in state.optimizer.param_groups:
            group["lr"] = _lr(recipe, epoch + i / steps)
        inputs = work.arrange(work.augment(x, rows=part))  # draws as in one process; dropout below does not
        with work.replica.on(part, _mix(_mix(work.seed, epoch), i)) as module:
            with torch.autocast(y.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                z = state.plugin.logits(module, inputs)
                loss = state.plugin.loss(z, y, recipe.label_smoothing)
            _step(state, loss * weight(part), recipe)
        state.plugin.step((epoch - recipe.begun + (i + 1) / steps) / recipe.epochs)
        if counted(part):
            total += float(loss.detach()) * len(y)
            right += int((z.argmax(1) == y).sum())
            seen += len(y)
        if ranks.world() == 1:
            _check(total, epoch, recipe)
        shown = max(seen, 1)
        tell(f"loss {total / shown:.4f}  train accuracy {right / shown:.4f}  {state.plugin.note()}".rstrip())
    lost, hits, samples = ranks.totals(total, right, seen)
    _check(lost, epoch, recipe)  # of all rows: ranks go on together or stop together
    return lost / max(samples, 1), hits / max(samples, 1)


def _check(total: float, epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(total):
        raise InputError(f"the training loss became {total} in epoch {epoch + 1}; lower lr (now {recipe.lr})")


def _step(state: _State, loss: Tensor, recipe: Recipe) -> None:
    state.optimizer.zero_grad(set_to_none=True)
    penalty = state.plugin.penalty()
    (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
    state.plugin.observe(state.module)
    if recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.module.parameters(), recipe.clip_norm)
    state.optimizer.step()
    if state.average is not None:
        state.average.update_parameters(state.module)


def _lr(recipe: Recipe, epoch: float) -> float:
    """Learning rate at a fractional epoch: linear warm-up, then constant or half a cosine to zero."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * (epoch + 1e-3) / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    done = (epoch - recipe.warmup_epochs) / max((recipe.total or recipe.epochs) - recipe.warmup_epochs, 1e-9)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _start(module: nn.Module, recipe: Recipe, plugin: Plugin) -> _State:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if recipe.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.momentum > 0
        )
    average = None
    if recipe.ema is not None:
        blend = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
        average = AveragedModel(module, multi_avg_fn=blend, use_buffers=True)
    return _State(module, optimizer, average, plugin)


def _result(state: _State) -> nn.Module:
    return state.module if state.average is None else state.average.module


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _mix(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _save(state: _State, recipe: Recipe, seed: int, origin: str, path: Path) -> None:
    content = {
        "recipe": asdict(recipe) | {"seed": seed},
        "origin": origin,
        "module": state.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "average": None if state.average is None else state.average.state_dict(),
        "plugin": state.plugin.state(),
        "history": [asdict(epoch) for epoch in state.history],
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    atomic_write(path, buffer.getvalue())


def _restore(state: _State, recipe: Recipe, seed: int, origin: str, path: Path) -> None:
    try:
        content: dict[str, Any] = read_pickle(path, _device(state.module))
        verify_sums(path)
        made, history = dict(content["recipe"]), [_epoch_of(epoch) for epoch in content["history"]]
    except Exception as error:
        raise InputError(f"cannot resume from {path}: not a training checkpoint; delete it to start over") from error
    now = asdict(recipe) | {"seed": seed}
    changed = [f"{key} {made.get(key)!r} -> {now[key]!r}" for key in now if made.get(key) != now[key]]
    if changed:
        raise ConfigError(f"cannot resume from {path}: it was made with other settings ({', '.join(changed)})")
    if content.get("origin") != origin:
        raise ConfigError(
            f"cannot resume from {path}: it started from other weights or data; drop --resume to start over"
        )
    fresh = state.optimizer.state_dict()["param_groups"]
    try:
        state.module.load_state_dict(content["module"])
        state.optimizer.load_state_dict(content["optimizer"])
        if state.average is not None:
            state.average.load_state_dict(content["average"])
        state.plugin.restore(content.get("plugin", {}))
        damaged = _damage(state, fresh) or len(history) > recipe.epochs
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot resume from {path}: it belongs to another network") from error
    except Exception as error:  # states of another form
        raise InputError(f"cannot resume from {path}: it is damaged; delete it to start over") from error
    if damaged:
        raise InputError(f"cannot resume from {path}: it is damaged; delete it to start over")
    state.history = history


def _epoch_of(values: dict[str, Any]) -> Epoch:
    epoch = Epoch(**values)
    numbers = (epoch.loss, epoch.train_accuracy, epoch.validation_accuracy)
    if type(epoch.epoch) is not int or not all(type(v) is float and math.isfinite(v) for v in numbers):
        raise ValueError("not an epoch")
    return epoch


def _damage(state: _State, fresh: list[dict[str, Any]]) -> bool:
    """Whether a restored state holds what no training leaves: `fresh` are the optimizer's groups of a new one."""
    changing = ("lr", "params")
    groups = [{key: v for key, v in group.items() if key not in changing} for group in state.optimizer.param_groups]
    if groups != [{key: v for key, v in group.items() if key not in changing} for group in fresh]:
        return True
    modules = [m for m in (state.module, state.average) if m is not None]
    tensors = [t for m in modules for t in m.state_dict().values() if isinstance(t, Tensor)]
    for parameter, values in state.optimizer.state.items():
        for value in values.values():
            if value is not None and not (isinstance(value, Tensor) and value.shape in (parameter.shape, ())):
                return True
            tensors += [] if value is None else [value]
    return not all(bool(torch.isfinite(t).all()) for t in tensors)
