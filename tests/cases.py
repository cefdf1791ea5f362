"""Small networks of every shape the package must handle, each with a batch of inputs.

    CASES[name]() -> (module, x)

`module` is in eval mode, float32, with batch-norm statistics and scales far from 0 and 1, and returns logits
`(N, classes)`; `x` has at least 4 samples. The same on every call; torch's global random state is left as it was.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.coupling.couple import couple
from infprune.coupling.groups import Coupling

N = 6
CLASSES = 4
LABELS = torch.arange(N) % CLASSES


class Residual(nn.Module):
    """Stem, one block with a 1x1 shortcut, one without."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv1, self.bn1 = nn.Conv2d(5, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7)
        self.shortcut, self.shortcut_bn = nn.Conv2d(5, 7, 1, stride=2, bias=False), nn.BatchNorm2d(7)
        self.conv3, self.bn3 = nn.Conv2d(7, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv4, self.bn4 = nn.Conv2d(4, 7, 3, padding=1), nn.BatchNorm2d(7)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)), inplace=True)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(y)) + self.shortcut_bn(self.shortcut(x)))
        y = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(y)) + x)
        return self.head(x.mean((2, 3)))


class DenseConcat(nn.Module):
    """Every layer reads all maps before it, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv1 = nn.Conv2d(4, 3, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(7)
        self.conv2 = nn.Conv2d(7, 5, 3, padding=1)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x0 = F.relu(self.conv0(x))
        x1 = F.relu(self.conv1(x0))
        x2 = F.relu(self.conv2(F.relu(self.bn2(torch.cat([x0, x1], 1)))))
        return self.head(F.adaptive_avg_pool2d(torch.cat([x0, x1, x2], 1), 1).flatten(1))


class Reused(nn.Module):
    """One module that is called twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1)
        self.shared = nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.shared(x))
        x = F.relu(self.shared(x))
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """Two modules with one weight: columns and rows of both belong to the same tensor."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1)
        self.first = nn.Conv2d(5, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 5, 3, padding=1)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.first(x))
        x = F.relu(self.second(x))
        return self.head(x.mean((2, 3)))


class Sequence(nn.Module):
    """Linear layers on (N, T, I), averaged over T."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 7)
        self.mix = nn.Linear(7, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x))
        return self.head(F.relu(self.mix(x)).mean(1))


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 9, 8),
        nn.ReLU(),
        nn.Linear(8, CLASSES),
    )


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def _bias_free() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 4, CLASSES),
    )


def _separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, CLASSES),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, CLASSES),
    )


def _strided() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )


def _dilated() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(5, 6, (3, 2), padding=(2, 0), dilation=(2, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, CLASSES),
    )


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 5, 3, padding=1),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Conv1d(5, 6, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def _case(build: Callable[[], nn.Module], *shape: int) -> Callable[[], tuple[nn.Module, Tensor]]:
    def make() -> tuple[nn.Module, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            module = build().eval()
            for owner in module.modules():
                if isinstance(owner, nn.modules.batchnorm._BatchNorm):
                    owner.running_mean.normal_(0.0, 0.3)
                    owner.running_var.uniform_(0.5, 2.0)
                    nn.init.uniform_(owner.weight, 0.5, 1.5)
                    nn.init.normal_(owner.bias, 0.2, 0.3)
                elif hasattr(owner, "weight"):
                    nn.init.kaiming_normal_(owner.weight)  # torch's default lets the signal die out: flat logits
            return module, torch.randn(N, *shape)

    return make


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "mlp": _case(_mlp, 5),
    "plain": _case(_plain, 2, 6, 6),
    "strided": _case(_strided, 2, 6, 6),
    "dilated": _case(_dilated, 2, 7, 6),
    "bias-free": _case(_bias_free, 2, 6, 6),
    "residual": _case(Residual, 3, 6, 6),
    "concat": _case(DenseConcat, 2, 5, 5),
    "separable": _case(_separable, 2, 5, 5),
    "grouped": _case(_grouped, 2, 5, 5),
    "reused": _case(Reused, 2, 5, 5),
    "tied": _case(Tied, 2, 5, 5),
    "conv1d": _case(_conv1d, 2, 11),
    "sequence": _case(Sequence, 5, 3),
}


@cache
def coupled(name: str) -> Coupling:
    """The coupling of a case; it names tensors, so it also fits copies of the module in another dtype."""
    return couple(*CASES[name]())
