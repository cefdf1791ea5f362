"""Networks and data of unusual form, importable as factories (`forms:NAME`).

`TwoInputs` reads token ids and numbers; `Packed` is the same function of one float tensor that holds both. `plain`,
`mapping`, `couple_of_logits` and `with_auxiliary` are one network with four kinds of output.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from infprune.data.dataset import ArrayDataset, Source

WORDS, LENGTH, VALUES, CLASSES = 12, 6, 5, 3


class TwoInputs(nn.Module):
    """Token ids (N, T) int64 and numbers (N, I)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, 8)
        self.words = nn.Linear(8, 10)
        self.values = nn.Linear(VALUES, 9)
        self.mix = nn.Linear(19, 14)
        self.head = nn.Linear(14, CLASSES)

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        words = F.relu(self.words(self.embed(tokens))).mean(1)
        return self.head(F.relu(self.mix(torch.cat([words, F.relu(self.values(values))], 1))))


class Packed(TwoInputs):
    """The same of one float tensor (N, T + I), whatever it holds: cuts are proved on noise too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :LENGTH].long().clamp(0, WORDS - 1), x[:, LENGTH:])


class TokensOnly(TwoInputs):
    """Token ids (N, T) alone: no input carries a gradient."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens, torch.ones(len(tokens), VALUES, dtype=self.mix.weight.dtype))


class Pairs(Dataset):
    """Yields ((tokens, values), y) one by one."""

    def __init__(self, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        self.inputs, self.y = inputs, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return tuple(t[index] for t in self.inputs), int(self.y[index])


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, values and labels that need both."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(WORDS, (n, LENGTH), generator=generator)
    values = torch.randn(n, VALUES, generator=generator)
    z = torch.stack([(tokens < 4).sum(1) - 2.0, (tokens > 7).sum(1) - 2.0, 2 * values[:, 0] + values[:, 1]], 1)
    return tokens, values, z.argmax(1)


def pairs():
    (*x, y), (*test, y_test) = drawn(600, 0), drawn(200, 1)
    return Source(Pairs(tuple(x), y), Pairs(tuple(test), y_test), CLASSES, ((LENGTH,), (VALUES,)))


def packed():
    (*x, y), (*test, y_test) = drawn(600, 0), drawn(200, 1)
    return Source(ArrayDataset(torch.cat(x, 1), y), ArrayDataset(torch.cat(test, 1), y_test), CLASSES, (11,))


def images():
    """Noise of the size that googlenet wants at least, and ten labels."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(24, 3, 64, 64, generator=generator), torch.arange(24) % 10
    return Source(ArrayDataset(x, y), ArrayDataset(x[:10], y[:10]), 10, (3, 64, 64))


class Heads(NamedTuple):
    logits: Tensor
    auxiliary: Tensor


class Digits(nn.Module):
    """A small network on the digits; subclasses say what it returns."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 10)
        self.side = nn.Linear(8, 10)

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.norm1(self.conv1(x)))

    def classify(self, maps: Tensor) -> Tensor:
        return self.head(F.relu(self.norm2(self.conv2(maps))).mean((2, 3)))

    def forward(self, x: Tensor):
        return self.classify(self.maps(x))


class Mapping(Digits):
    def forward(self, x: Tensor):
        logits = self.classify(self.maps(x))
        return {"probabilities": logits.softmax(1), "logits": logits}


class Couple(Digits):
    def forward(self, x: Tensor):
        logits = self.classify(self.maps(x))
        return logits, logits.softmax(1)


class WithAuxiliary(Digits):
    """As googlenet: a second head that only train mode calls, on channels that may be cut."""

    def forward(self, x: Tensor):
        maps = self.maps(x)
        logits = self.classify(maps)
        return Heads(logits, self.side(maps.mean((2, 3)))) if self.training else logits


def plain():
    return Digits()


def mapping():
    return Mapping()


def couple_of_logits():
    return Couple().eval()


def with_auxiliary():
    return WithAuxiliary().train()
