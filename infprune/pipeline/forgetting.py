"""Which training samples are forgotten, and what a network is asked to show that it has."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from infprune.data.classes import all_labels
from infprune.data.dataset import Changed, Part, Samples
from infprune.data.index_file import named
from infprune.errors import ConfigError, InputError
from infprune.evaluation import Answers, answers
from infprune.pipeline.session import Session
from infprune.pipeline.unlearn_results import Quality
from infprune.unlearning.membership import attack_auc
from infprune.unlearning.objective import runner_up

MEMBERS = 1000  # forgotten training samples that are asked during the search


@dataclass(frozen=True)
class Task:
    """`forget` and `rest`: positions in the training split. `y`: its right labels where these differ from the learned.

    `wanted`: the labels of the training split that unlearning aims at; None: the forgotten may get any but the learned.
    `unseen`: how many samples of a subset file are in the validation split. `kind`: class, file or backdoor.
    """

    session: Session
    kind: str
    forget: Tensor
    rest: Tensor
    y: Tensor | None = None
    label: int | None = None
    unseen: int = 0
    wanted: Tensor | None = None

    @property
    def share(self) -> float:
        """P: forgotten samples over all of the training split."""
        return len(self.forget) / len(self.session.splits.train)

    @property
    def identity(self) -> str:
        """What is forgotten, whatever the file is called that says so."""
        places = torch.cat([self.forget, self.forget if self.y is None else self.y[self.forget]])
        return f"{self.kind} {hashlib.sha256(places.numpy().tobytes()).hexdigest()}"

    @property
    def corrected(self) -> Samples:
        """What should have been trained on: the rest, or all with the right labels."""
        train = self.session.splits.train
        return Part(train, self.rest) if self.y is None else Changed(train, self.y)

    def learned(self) -> Samples:
        """The forget set as it was learned."""
        return Part(self.session.splits.train, self.forget)

    @property
    def aim(self) -> Samples:
        """What the changed network should be like a network of: the rest, or all with the wanted labels."""
        train = self.session.splits.train
        return Part(train, self.rest) if self.wanted is None else Changed(train, self.wanted)

    def instead(self) -> Samples | None:
        """The forget set with the wanted labels, if there are any."""
        return None if self.wanted is None else Part(Changed(self.session.splits.train, self.wanted), self.forget)

    def aimed(self, module: nn.Module) -> "Task":
        """With the labels that `unlearn.objective` asks for, of a network that has learned."""
        objective = self.session.config.unlearn.objective
        if objective == "auto":
            objective = "runner-up" if self.kind == "class" else "loss"
        if objective == "loss":
            return replace(self, wanted=self.y)
        train = self.session.splits.train
        wanted = all_labels(train).clone()
        wanted[self.forget] = runner_up(module, self.session.batches(self.learned()))
        return replace(self, wanted=wanted)

    def exam(self, split: str) -> "Exam":
        """What is asked on a split."""
        samples: Samples = getattr(self.session.splits, split)
        members = self.learned()
        if split == "validation" and self.kind != "file":  # there it decides nothing, and each trial asks
            members = Part(members, torch.arange(min(MEMBERS, len(members))))
        if self.kind == "class":
            y = all_labels(samples)
            its = torch.eq(y, int(self.label or 0)).nonzero()[:, 0]
            if not len(its) or len(its) == len(y):
                raise InputError(
                    f"the {split} split has {len(its)} of {len(y)} samples of class {self.label}; raise data.validation"
                )
            return Exam(samples, torch.ne(y, int(self.label or 0)).nonzero()[:, 0], members, others=Part(samples, its))
        if self.kind == "file":
            return Exam(samples, torch.arange(len(samples)), members, others=samples)
        door = self.session.splits.backdoor
        assert door is not None
        clean = torch.arange(len(samples))
        if isinstance(samples, Part):
            clean = (~torch.isin(samples.indices, door.poisoned)).nonzero()[:, 0]
        stamped = Changed(Part(samples, clean), change=door.trigger)
        return Exam(samples, clean, members, triggered=stamped, target=door.target)


@dataclass(frozen=True)
class Judged:
    """What a network showed, and the score of it that decides on the validation split; larger is better.

    A class: kept accuracy less that of the forgotten class. A backdoor: minus the loss at the right labels, half of it
    without and half with the trigger; by accuracy the best first step was to drop the attacker's class for good.
    A file: kept accuracy less twice the distance of the membership AUC from ignorance, .5: samples that were forgotten
    are as well known as any that were never seen, not worse.
    """

    quality: Quality
    score: float


@dataclass(frozen=True)
class Exam:
    """A split with the positions that are to be kept, the forgotten training samples, and others of their kind."""

    samples: Samples
    kept: Tensor
    members: Samples
    others: Samples | None = None
    triggered: Samples | None = None
    target: int | None = None

    def taken(self, module: nn.Module, session: Session) -> Quality:
        """Ask a network."""
        return self.judged(module, session).quality

    def judged(self, module: nn.Module, session: Session) -> Judged:
        """Ask a network, and say how good that is."""
        whole = answers(module, session.batches(self.samples))
        members = answers(module, session.batches(self.members)).loss
        kept = _accuracy(whole, self.kept)
        if self.triggered is not None:
            told = answers(module, session.batches(self.triggered))
            target = int(self.target or 0)
            fooled = torch.eq(told.predicted, target)
            with_target = Changed(self.triggered, torch.full_like(told.y, target))
            others = answers(module, session.batches(with_target)).loss
            elsewhere = float(fooled[torch.ne(told.y, target)].double().mean())
            attack = float(fooled.double().mean())
            auc = attack_auc(members, others)
            loss = 0.5 * float(whole.loss[self.kept].double().mean() + told.loss.double().mean())
            return Judged(Quality(whole.accuracy, kept, None, told.accuracy, attack, elsewhere, auc), -loss)
        assert self.others is not None
        asked = answers(module, session.batches(self.others))
        auc = attack_auc(members, asked.loss)
        if self.others is self.samples:
            forgotten = answers(module, session.batches(self.members)).accuracy
            return Judged(Quality(whole.accuracy, kept, forgotten, None, None, None, auc), kept - 2 * abs(auc - 0.5))
        forgotten = asked.accuracy
        return Judged(Quality(whole.accuracy, kept, forgotten, None, None, None, auc), kept - forgotten)


def open_task(session: Session) -> Task:
    """What the configuration asks to forget.

    Raises:
        ConfigError: nothing is asked, or what the dataset cannot have.
        InputError: no samples to forget, or none that stay; a subset file that is damaged or of other data.
    """
    wanted = session.config.unlearn.forget
    if wanted is None:
        raise ConfigError("unlearn.forget: say what to forget: class:N, file:PATH or backdoor")
    kind, _, text = wanted.partition(":")
    if kind == "class":
        return _of_class(session, int(text))
    return _of_backdoor(session) if kind == "backdoor" else _of_file(session, Path(text))


def _of_class(session: Session, label: int) -> Task:
    classes = session.splits.classes
    if label >= classes:
        raise ConfigError(f"unlearn.forget: there is no class {label}; {session.data_name} has 0 to {classes - 1}")
    return _divided(session, "class", all_labels(session.splits.train) == label, label=label)


def _of_file(session: Session, path: Path) -> Task:
    train = session.splits.train
    assert isinstance(train, Part)
    wanted = named(path, train.base)
    chosen = torch.isin(train.indices, wanted)
    return _divided(session, "file", chosen, unseen=len(wanted) - int(chosen.sum()))


def _of_backdoor(session: Session) -> Task:
    door, train = session.splits.backdoor, session.splits.train
    if door is None:
        raise ConfigError(
            f"unlearn.forget: {session.data_name} has no backdoor; use mnist_backdoor or digits_backdoor, or forget "
            "class:N or file:PATH"
        )
    assert isinstance(train, Part)
    y = all_labels(train).clone()
    chosen = torch.isin(train.indices, door.poisoned)
    y[chosen] = door.labels[torch.searchsorted(door.poisoned, train.indices[chosen])]
    return _divided(session, "backdoor", chosen, y=y)


def _divided(
    session: Session, kind: str, chosen: Tensor, y: Tensor | None = None, label: int | None = None, unseen: int = 0
) -> Task:
    found, rest = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    if not len(found):
        where = f"; {unseen} are in the validation split" if unseen else ""
        raise InputError(
            f"unlearn.forget={session.config.unlearn.forget}: no training sample is to be forgotten{where}"
        )
    if not len(rest):
        raise InputError(
            f"unlearn.forget={session.config.unlearn.forget}: every training sample is to be forgotten; train anew"
        )
    return Task(session, kind, found, rest, y, label, unseen)


def _accuracy(found: Answers, at: Tensor) -> float:
    return float((found.predicted[at] == found.y[at]).double().mean())
