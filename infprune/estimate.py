"""What calibration will take, in memory and time, from shapes alone: nothing of the network's size is allocated."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer, Computation, Coupling, Role
from infprune.curvature.gram import lagged, products
from infprune.forward import Inputs, each, head, logits
from infprune.modes import evaluating

LAG_BLOCKS, PATCH_BLOCKS = 29, 81  # C x C matrices that `Lags` and a 3x3 patch Gram hold
COLUMNS = 1 << 28  # bytes of unfolded columns at a time, at most
COPIES = 2  # of them while they are put together; of a map and its two shifts, one more
ROOTS = 2  # float64 O x D matrices besides the inverse while a layer is eliminated
LIVE = 3  # largest activations besides the saved ones


@dataclass(frozen=True)
class Rates:
    """What a machine does per second: FLOPs of convolutions, of float32 products, of float64 factorisations."""

    network: float
    products: float
    factorising: float


@dataclass(frozen=True)
class Estimate:
    """Bytes and floating-point operations of one calibration pass and the scores that follow.

    `weights`: of the network. Per sample, `saved` by autograd, and `columns` of the layer where these are most.
    `factors`: sum of (29 or 81) C^2 + O^2 numbers over the weights that read prunable channels. `solving`: the inverses
    of all that read one layer, of the layer where that is most. `forward`, `backward`, `gram`: FLOPs of all samples;
    `factorising`: of all inversions and eliminations, whatever the samples. `shares`: `factors` by weight.
    """

    weights: int
    batch: int
    saved: int
    columns: int
    factors: int
    solving: int
    forward: int
    backward: int
    gram: int
    factorising: int
    widest: int = 0
    shares: Mapping[str, int] = field(default_factory=dict)

    @property
    def activations(self) -> int:
        """Bytes of one batch."""
        return self.batch * self.saved + min(COPIES * COLUMNS, self.batch * self.columns)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment: in the pass, or while the widest weight is inverted."""
        return self.weights + self.factors + max(self.activations, self.solving)

    def seconds(self, rates: Rates, passes: int = 1) -> float:
        """Time by a machine's rates; several passes share the Gram matrices out."""
        passing = passes * (self.forward + self.backward) / rates.network
        return passing + self.gram / rates.products + self.factorising / rates.factorising


def estimate(
    module: nn.Module,
    coupling: Coupling,
    layers: Sequence[ChannelLayer],
    example: Inputs,
    *,
    batch: int,
    samples: int,
    positions: int | None,
    kronecker: bool = True,
) -> Estimate:
    r"""Estimate calibration; module and example may be on the meta device.

    With m = D + 1 inputs and O outputs of each reading weight, P output positions, p of them used:

    .. math:: \text{FLOPs} = N (4\,\text{MACs} + \sum [p m^2 \text{ or } 26 P C^2] + \sum p O^2)
              + \sum (\tfrac43 m^3 + O m^2)

    one forward pass, one backward pass to activations alone (as much again), symmetric products, Cholesky, inverse and
    elimination. Elementwise work is not counted: networks that spend their time in it take longer.

    Args:
        module: the network.
        coupling: its channels.
        layers: those that are scored.
        example: one batch of at least two samples.
        batch: samples per batch.
        samples: of calibration.
        positions: `data.positions`.
        kronecker: whether factors are collected (`influence`), or gates alone.
    """
    macs = sum(call.positions * coupling.tensors[call.weight].shape.numel() for call in coupling.computations)
    weights = sum(t.shape.numel() * t.itemsize for t in coupling.tensors.values())
    gram = factorising = widest = columns = 0
    shares: dict[str, int] = {}  # by weight
    solving: dict[str, int] = {}  # by weight
    names = {s.tensor for layer in layers if not layer.gated for s in layer.having(Role.CONSUMER)}
    inputs = _spaces(module, example)
    for call in coupling.computations if kronecker else ():
        if call.weight not in names or not call.owned:
            continue
        own = _reader(module, coupling, call, inputs.get(call.module), positions)
        gram, columns = gram + own.gram * samples, max(columns, own.columns)
        if call.weight not in shares:  # a weight that is called twice has one pair of factors
            shares[call.weight], factorising = own.factors, factorising + own.factorising
            solving[call.weight], widest = own.solving, max(widest, own.width)
    read = [{s.tensor for s in layer.having(Role.CONSUMER)} for layer in layers if not layer.gated]
    return Estimate(
        weights=weights,
        batch=batch,
        saved=_saved(module, example),
        columns=columns,
        factors=sum(shares.values()),
        solving=max((sum(solving.get(name, 0) for name in names) for names in read), default=0),
        forward=2 * macs * samples,
        backward=2 * macs * samples,
        gram=gram,
        factorising=factorising,
        widest=widest,
        shares=shares,
    )


@dataclass(frozen=True)
class _Reader:
    """One weight's share: bytes of a sample's columns, of factors, of the solution; FLOPs per sample, once; D + 1."""

    columns: int
    factors: int
    solving: int
    gram: int
    factorising: int
    width: int


def _reader(
    module: nn.Module, coupling: Coupling, call: Computation, space: tuple[int, ...] | None, positions: int | None
) -> _Reader:
    owner = module.get_submodule(call.module)
    shape = coupling.tensors[call.weight].shape
    outputs = shape[call.output_dim] // call.groups
    width = shape.numel() // shape[call.output_dim] + 1  # inputs of one group, times the kernel, and the bias
    seen = min(call.positions, positions or call.positions)
    channels = shape[call.input_dim]
    flops, blocks, columns = seen * width**2, width**2, COPIES * seen * width
    if space is not None and lagged(owner) and products(*space) <= PATCH_BLOCKS * seen:
        flops, blocks = 2 * products(*space) * channels**2, LAG_BLOCKS * channels**2
        columns = (COPIES + 1) * math.prod(space) * channels
    return _Reader(
        columns=4 * call.groups * columns,
        factors=4 * call.groups * (blocks + outputs**2),
        solving=8 * call.groups * width * (width + ROOTS * min(outputs, width)),
        gram=call.groups * (flops + seen * outputs**2),
        factorising=call.groups * (4 * width**3 // 3 + min(outputs, width) * width**2),
        width=width,
    )


@torch.no_grad()
def _spaces(module: nn.Module, example: Inputs) -> dict[str, tuple[int, ...]]:
    """Height and width of what each two-dimensional convolution reads."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[name] = tuple(args[0].shape[2:])

    hooks = [
        m.register_forward_pre_hook(partial(note, name))
        for name, m in module.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    with evaluating(module):
        logits(module, example)
    for hook in hooks:
        hook.remove()
    return found


def _saved(module: nn.Module, example: Inputs) -> int:
    """Bytes per sample that autograd saves without weight gradients, each storage once, and some in flight."""
    held = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}  # noqa: SLF001
    saved: dict[int, tuple[int, torch.UntypedStorage]] = {}
    largest = 0

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage._cdata not in held:  # noqa: SLF001 - identity, also without memory
            saved[storage._cdata] = (storage.nbytes(), storage)  # noqa: SLF001
        return t.detach()

    def note(_: nn.Module, __: object, y: object) -> None:
        nonlocal largest
        largest = max(largest, y.nbytes if isinstance(y, Tensor) else 0)

    flags = [(p, p.requires_grad) for p in module.parameters()]
    hooks = [m.register_forward_hook(note) for m in module.modules()]
    few = each(lambda t: t.clone().requires_grad_(t.is_floating_point()), head(example, 2))
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        with evaluating(module), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            logits(module, few)
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
        for hook in hooks:
            hook.remove()
    return (sum(size for size, _ in saved.values()) + LIVE * largest) // 2


def measured_rates() -> Rates:
    """Measure the machine with the present number of threads: about half a second."""
    x, w = torch.randn(8, 64, 28, 28), torch.randn(64, 64, 3, 3)
    a = torch.randn(1024, 1024)
    d = (a @ a.T).double() + 1024 * torch.eye(1024, dtype=torch.float64)
    return Rates(
        network=2 * 8 * 28 * 28 * 64 * 64 * 9 / _least(lambda: torch.conv2d(x, w, padding=1)),
        products=2 * 1024**3 / _least(lambda: a @ a.T),
        factorising=1024**3 / _least(lambda: torch.cholesky_inverse(torch.linalg.cholesky(d))),
    )


def _least(work: Callable[[], object]) -> float:
    """The shortest of four times, in CPU seconds of this thread: other jobs do not count."""
    best = float("inf")
    for _ in range(4):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best
