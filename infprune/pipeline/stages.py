"""Configuration -> two trained stages: their data, their networks, and what fine-tuning held."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from infprune import config
from infprune.config import Config
from infprune.data.classes import chosen
from infprune.data.dataset import Samples, gather
from infprune.data.loaders import subset
from infprune.errors import ArchitectureError, ConfigError
from infprune.forward import move, picked
from infprune.models.attention import explicit
from infprune.models.checkpoint import digest, load_into, read_tensors
from infprune.multistage.layers import Still, head, held, matching, owned, renew
from infprune.pipeline.session import Session, network, open_session, outputs
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Progress
from infprune.training import Plugin, Recipe, train

Name = Literal["pretrain", "finetune"]


@dataclass(frozen=True)
class StageData:
    """The samples of one stage; `labels` of the data, in the order of the outputs."""

    session: Session
    train: Samples
    validation: Samples
    test: Samples
    labels: tuple[int, ...]

    @property
    def origin(self) -> str:
        """The data as text: what a resumed training must share."""
        return f"{self.session.data_identity} {self.labels} {len(self.train)}"

    def example(self) -> object:
        """Two training inputs, on the device."""
        return move(gather(self.train, [0, len(self.train) - 1])[0], self.session.device)


@dataclass(frozen=True)
class Stages:
    """Both stages, trained; `head` and `frozen` are layers, by name."""

    pretrain: StageData
    finetune: StageData
    first: nn.Module
    second: nn.Module
    head: tuple[str, ...]
    frozen: tuple[str, ...]
    checkpoints: dict[Name, str]

    @property
    def session(self) -> Session:
        """Folder, device and settings."""
        return self.pretrain.session


def open_stages(settings: Config, command: str, watch: Stopwatch, progress: Progress) -> Stages:
    """Load data, then train or load both stages; finished epochs are found in the run folder by what they are of.

    Raises:
        ConfigError: labels, layers or samples that do not exist or do not go together.
        ArchitectureError: no layer makes the logits.
        InputError: missing data, or a checkpoint that does not fit.
    """
    choice = settings.trace
    with watch.stage("load"):
        before, after = _data(settings, command)
        torch.manual_seed(settings.run.seed)
        first = explicit(network(settings, trained=False)).to(before.session.device)
        own, last = head(first, choice.head)
        still = _frozen(first, own, choice.frozen)
        renew(first, own, last, len(before.labels))
        _check(first, before, last)
    session = before.session
    with watch.stage("pretrain"):
        _learn("pretrain", first, before, choice.pretrain_checkpoint, (), progress)
        second = copy.deepcopy(first)
        torch.manual_seed(settings.run.seed + 1)
        renew(second, own, last, len(after.labels))
        _check(second, after, last)
    with watch.stage("finetune"):
        _learn("finetune", second, after, choice.finetune_checkpoint, still, progress)
    files: dict[Name, str] = {
        "pretrain": choice.pretrain_checkpoint or str(session.folder / "pretrain.safetensors"),
        "finetune": choice.finetune_checkpoint or str(session.folder / "finetune.safetensors"),
    }
    return Stages(before, after, first.eval(), second.eval(), own, still, files)


def learn(
    name: str,
    module: nn.Module,
    data: StageData,
    recipe: Recipe,
    still: Sequence[str],
    progress: Progress,
    *,
    plugin: Plugin | None = None,
    keep: bool = True,
) -> None:
    """Train a stage in place; with `keep`, its epochs are kept in the run folder and taken up from there."""
    session, parameters = data.session, owned(module, still)
    seed = session.config.run.seed
    content = json.dumps([digest(module), data.origin, asdict(recipe), seed, sorted(parameters)])
    path = session.folder / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.ckpt"
    with held(module, parameters):
        done = train(
            module,
            data.train,
            session.batches(data.validation),
            recipe,
            seed=seed,
            origin=data.origin,
            augment=session.augment(),
            plugin=plugin or Still(still),
            checkpoint=path if keep else None,
            resume=keep,
            progress=progress,
        )
    if done.module is not module:  # the moving average of the weights
        module.load_state_dict(done.module.state_dict())
    module.eval()


def _learn(
    name: Name, module: nn.Module, data: StageData, checkpoint: str | None, still: Sequence[str], progress: Progress
) -> None:
    if checkpoint is not None:
        load_into(module, read_tensors(Path(checkpoint)), checkpoint)
        return
    learn(name, module, data, data.session.recipe("train" if name == "pretrain" else "finetune"), still, progress)


def _data(settings: Config, command: str) -> tuple[StageData, StageData]:
    choice = settings.trace
    if settings.finetune.method != "standard":
        raise ConfigError(f"finetune.method: trace fine-tunes and cuts nothing, got {settings.finetune.method}")
    first = open_session(settings, command)
    second = first
    if choice.finetune_data:
        document = {"data": settings.data.model_dump(exclude_none=True) | choice.finetune_data}
        if "factory" in choice.finetune_data:
            document["data"].pop("name", None)
        if "name" in choice.finetune_data:
            document["data"].pop("factory", None)
        other = config.assemble("trace.finetune_data", document, ()).data
        second = replace(open_session(first.config.model_copy(update={"data": other}), command), folder=first.folder)
    before = _stage(first, choice.pretrain, choice.pretrain_samples, "trace.pretrain")
    after = _stage(second, choice.finetune, choice.finetune_samples, "trace.finetune")
    common = sorted(set(before.labels) & set(after.labels))
    if common and second is first and not choice.overlap:
        raise ConfigError(
            f"trace.finetune: label {', '.join(map(str, common))} is in trace.pretrain as well; take it out of one, or "
            "set trace.overlap=true if both stages are to learn it"
        )
    return before, after


def _stage(session: Session, labels: Sequence[int] | None, limit: int | None, where: str) -> StageData:
    classes = tuple(range(session.splits.classes) if labels is None else labels)
    parts = {}
    for part in ("train", "validation", "test"):
        parts[part] = chosen(getattr(session.splits, part), classes, session.splits.classes, where)
    found: Samples = parts["train"]
    if limit is not None:
        if limit > len(found):
            raise ConfigError(f"{where}_samples: there are {len(found)} training samples of these labels, got {limit}")
        found = subset(found, limit, session.config.data.seed)
    return StageData(session, found, parts["validation"], parts["test"], classes)


def _frozen(module: nn.Module, own: Sequence[str], patterns: Sequence[str] | None) -> tuple[str, ...]:
    every = matching(module, ["*"], "trace.frozen")
    if patterns is None:
        return tuple(name for name in every if name not in own)
    found = matching(module, patterns, "trace.frozen")
    if both := [name for name in found if name in own]:
        raise ConfigError(
            f"trace.frozen: {both[0]} is new in the second stage, which has to train it; freeze other layers, or take "
            "it out of trace.head"
        )
    return found


@torch.no_grad()
def _check(module: nn.Module, data: StageData, last: str) -> None:
    """The logits must follow the layer that was replaced."""
    found = picked(outputs(module.eval(), data.example(), data.session.model_name, data.session.data_name))  # type: ignore[arg-type]
    if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[1] != len(data.labels):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArchitectureError(
            f"{data.session.model_name}: expected logits (N, {len(data.labels)}) once {last} has {len(data.labels)} "
            f"outputs, got {got}; name the layer that makes the logits in trace.head"
        )
