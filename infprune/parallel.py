"""A network trained by several ranks, each on its rows of every batch: as one process trains it on the whole batch."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infprune import ranks
from infprune.data.loaders import Rows
from infprune.forward import Inputs, logits, move, picked


class Replica:
    """One rank's copy; gradients are averaged over ranks while they are computed (DistributedDataParallel).

    The loss of a rank's rows has to be multiplied by `weight`, so that the mean over ranks is the mean over samples.
    """

    def __init__(self, module: nn.Module, example: Inputs) -> None:
        self.module = module
        self._wrapped: nn.Module | None = None
        if ranks.world() > 1:
            device = next(module.parameters()).device
            ids = None if device.type == "cpu" else [device.index]
            some = _idle(module, move(example, device))
            self._wrapped = DistributedDataParallel(_Logits(module), device_ids=ids, find_unused_parameters=some)

    @contextmanager
    def on(self, rows: Rows, chance: int) -> Iterator[nn.Module]:
        """The network to call on these rows, in train mode; dropout is seeded by `chance` and the rank."""
        if self._wrapped is None or rows.everybodys:
            yield self.module
            return
        device = next(self.module.parameters()).device
        with torch.random.fork_rng([] if device.type == "cpu" else [device]), synchronised(self.module):
            torch.manual_seed(chance + ranks.rank())
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Grad strides do not match")  # of a convolution of one channel
                yield self._wrapped


def _idle(module: nn.Module, x: Inputs) -> bool:
    """Whether the logits need not all parameters; the search for these costs a walk through the graph in every step."""
    trial = copy.deepcopy(module).train()
    wanted = [p for p in trial.parameters() if p.requires_grad]
    with torch.enable_grad(), torch.random.fork_rng([] if wanted[0].device.type == "cpu" else [wanted[0].device]):
        found = torch.autograd.grad(logits(trial, x).sum(), wanted, allow_unused=True)
    return any(g is None for g in found)


def weight(rows: Rows) -> float:
    """What makes the mean over ranks of mean losses the mean over samples."""
    return 1.0 if rows.everybodys else (rows.stop - rows.start) * ranks.world() / rows.total


def counted(rows: Rows) -> bool:
    """Whether this rank's rows count in sums over ranks: a batch that everybody has counts once."""
    return ranks.rank() == 0 or not rows.everybodys


class _Logits(nn.Module):
    """The network without its auxiliary outputs, which would wait for gradients that never come."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Tensor) -> Any:
        return picked(self.module(*args))


@contextmanager
def synchronised(module: nn.Module) -> Iterator[None]:
    """Let batch norms in train mode take mean and variance over the samples of all ranks.

    SyncBatchNorm does the same on GPUs only; this runs everywhere, so that what is tested is what is used.
    """
    norms = [
        m
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and "forward" not in vars(m)  # noqa: SLF001 - the base
    ]
    with contextlib.ExitStack() as stack:
        for m in norms:
            m.forward = partial(_normalised, m, m.forward)  # type: ignore[method-assign]
            stack.callback(m.__delattr__, "forward")
        yield


def _normalised(m: Any, alone: Any, x: Tensor) -> Tensor:
    if not m.training:
        found: Tensor = alone(x)
        return found
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    with torch.autocast(x.device.type, enabled=False):
        wide = x if x.dtype == torch.float64 else x.float()
        count = wide.new_full((1,), x.numel() / x.shape[1])
        sums = _Total.apply(torch.cat([wide.sum(dims), count]))
        mean, samples = sums[:-1] / sums[-1], sums[-1].detach()
        gap = wide - mean.reshape(shape)
        variance = _Total.apply(gap.square().sum(dims)) / samples
        scale = (variance + m.eps).rsqrt()
        y = gap * (scale if m.weight is None else scale * m.weight).reshape(shape)
        y = y if m.bias is None else y + m.bias.reshape(shape)
    if m.track_running_stats:
        _remember(m, mean.detach(), variance.detach() * samples / (samples - 1))
    normalised: Tensor = y.to(x.dtype)
    return normalised


@torch.no_grad()
def _remember(m: Any, mean: Tensor, variance: Tensor) -> None:
    m.num_batches_tracked.add_(1)
    share = 1.0 / float(m.num_batches_tracked) if m.momentum is None else m.momentum
    m.running_mean.lerp_(mean.to(m.running_mean), share)
    m.running_var.lerp_(variance.to(m.running_var), share)


class _Total(torch.autograd.Function):
    """The sum over ranks; so is its gradient, since every rank's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return ranks.total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return ranks.total(gradients[0])
