"""Networks for the doctor, importable as factories (`patients:NAME`). All take (N, 3, 6, 6)."""

import torch
from torch import nn

INPUTS = [{"shape": [3, 6, 6]}]


class Literal(nn.Module):
    """Constant positions and a literal width: `right` is cut in two by a slice, `mid` fits its literal only."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.right = nn.Conv2d(8, 9, 1)
        self.mid = nn.Conv2d(9, 12, 1)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.right(self.norm(self.stem(x)).relu())
        extra = x[:, :4].sum((1, 2, 3))
        return self.head(self.mid(x).relu().mean((2, 3)).view(-1, 12)) + extra[:, None]


class Sized(nn.Module):
    """Reads its width from an attribute, and normalises over channels."""

    def __init__(self):
        super().__init__()
        self.width = 8
        self.stem, self.norm = nn.Conv2d(3, 8, 1), nn.LayerNorm(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.norm(self.stem(x).mean((2, 3)).view(-1, self.width)))


class ZeroBranch(nn.Module):
    """A branch that starts at zero and divides by its width, which a cut changes."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.scale = nn.Parameter(torch.zeros(8, 1, 1))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x)
        inner = self.inner(x)
        x = x + self.scale * self.outer(inner / inner.shape[1])
        return self.head(x.mean((2, 3)))


class DataDependent(Literal):
    """Looks at its input to decide what to compute."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Endless(Literal):
    """A graph without end."""

    def forward(self, x):
        while True:
            x = (x + 1).relu()


def literal():
    return Literal()


def sized():
    return Sized()


def zero_branch():
    return ZeroBranch()


def data_dependent():
    return DataDependent()


def endless():
    return Endless()
