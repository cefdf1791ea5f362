"""Forgetting: how often training unlearns a sample (Toneva et al. 2019)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from infprune.attribution.contract import Measured, Method, Need, Parts, ScoringInputs, finished
from infprune.attribution.packing import packed, unpacked
from infprune.data.dataset import Samples, gather
from infprune.data.loaders import Rows
from infprune.forward import Inputs, logits, tensors
from infprune.training import Plugin, train


def compute(inputs: ScoringInputs) -> Measured:
    """Score every sample by its forgetting events during the whole configured training, averaged over seeds.

    An event: right when last presented, wrong when presented now, both as the training batch sees it (train mode,
    augmented), before the step. Toneva et al. (2019), algorithm 1. A sample that was never right has `train.epochs` as
    its count, more than any other can have, as they sort it: LARGER is harder. `details["never"]`: the share of seeds
    in which it was never right; `details["learned"]`: the mean epoch, from 0, in which it was right first.
    """
    found = [unpacked(text).reshape(2, -1) for text in finished(inputs, parts(inputs))]
    events, first = torch.stack(found).unbind(1)
    never, epochs = first < 0, inputs.learning.recipe.epochs
    scores = events.where(~never, float(epochs)).mean(0)
    learned = first.where(~never, float(epochs)).mean(0)
    details = {"never": never.double().mean(0), "learned": learned}
    return Measured(scores, details=details, facts={"seeds": len(found), "epochs": epochs})


def parts(inputs: ScoringInputs) -> Parts:
    """One training per seed."""
    first = inputs.seed
    return {f"seed {s}": partial(_one, inputs, s) for s in range(first, first + inputs.options.seeds)}


def _one(inputs: ScoringInputs, seed: int) -> str:
    """Events, then first presentations, of all samples."""
    learning, counter = inputs.learning, Counter(inputs.labels)
    train(
        learning.fresh(seed),
        Numbered(inputs.train),
        learning.validation,
        learning.recipe,
        seed=seed,
        augment=numbered(learning.augment),
        plugin=counter,
        progress=inputs.progress,
    )
    return packed(torch.cat([counter.events, counter.first]))


class Numbered(Dataset[tuple[Inputs, int]]):
    """Samples whose last input is their position: so a plugin sees which ones a batch holds."""

    def __init__(self, base: Samples) -> None:
        self.base = base

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> tuple[Inputs, int]:
        x, y = self.base[index]
        return (*tensors(x), torch.tensor(index)), y

    def __getitems__(self, indices: Sequence[int]) -> tuple[Inputs, Tensor]:
        x, y = gather(self.base, indices)
        return (*tensors(x), torch.as_tensor(indices, dtype=torch.int64)), y


def numbered(augment: Callable[..., Inputs]) -> Callable[..., Inputs]:
    """An augmentation that leaves the positions alone."""

    def changed(x: Inputs, *, rows: Rows | None = None) -> Inputs:
        real, at = _apart(x)
        return (*tensors(augment(real, rows=rows)), at)

    return changed


def _apart(x: Inputs) -> tuple[Inputs, Tensor]:
    *real, at = tensors(x)
    return (real[0] if len(real) == 1 else tuple(real)), at


class Counter(Plugin):
    """Counts events of samples with labels `(N,)`.

    `events` (N,): forgettings. `first` (N,): at which presentation, from 0, a sample was right first; -1: never.
    """

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels.cpu()
        self.events = torch.zeros(len(labels), dtype=torch.float64)
        self.first = torch.full((len(labels),), -1.0, dtype=torch.float64)
        self._right = torch.zeros(len(labels), dtype=torch.bool)
        self._seen = torch.zeros(len(labels), dtype=torch.float64)

    def logits(self, module: nn.Module, x: Inputs) -> Tensor:
        """Run the network on the real inputs, and look which samples it has right."""
        real, at = _apart(x)
        z = logits(module, real)
        at = at.cpu()
        right = z.detach().argmax(1).cpu() == self._labels[at]
        self.events[at] += (self._right[at] & ~right).double()
        fresh = at[right & (self.first[at] < 0)]
        self.first[fresh] = self._seen[fresh]
        self._right[at] = right
        self._seen[at] += 1
        return z

    def state(self) -> dict[str, Any]:
        """The counts."""
        return {"events": self.events, "first": self.first, "right": self._right, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.events, self.first, self._right, self._seen = (state[k] for k in ("events", "first", "right", "seen"))


FORGETTING = Method(compute, "events", "hard: training unlearns it again and again", Need.TRAINING, parts)
