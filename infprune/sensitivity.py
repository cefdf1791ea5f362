"""What a network loses when one layer alone is narrowed: measured, so that layers can be compared."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.coupling.groups import ChannelLayer, Computation, Coupling, Role
from infprune.curvature.kronecker import InputMoment, wide
from infprune.curvature.patches import assigned, matrix, rows_read
from infprune.forward import Inputs, head, logits, size, split
from infprune.layout import arrangement
from infprune.modes import evaluating
from infprune.progress import Progress, Silent
from infprune.regression import Moments, fit
from infprune.scores.contract import Curve
from infprune.surgery import Silence, silence, silencing

SHARES = (0.85, 0.7, 0.55, 0.4, 0.28, 0.18, 0.1, 0.04)  # of a layer's channels that are kept, one trial each
DAMPING = 1e-4  # relative; of the least squares before each trial
MEMORY = 1 << 30  # bytes of recorded outputs that trials start from; and of the weights of trials


def measure(
    module: nn.Module,
    coupling: Coupling,
    layers: Sequence[ChannelLayer],
    scores: Mapping[str, Tensor],
    moments: Mapping[str, InputMoment],
    inputs: Inputs,
    *,
    progress: Progress = Silent(),  # noqa: B008 - stateless
) -> dict[str, Curve]:
    r"""Narrow each layer alone, by its lowest scores, and measure how far the logits move.

    .. math:: \ell(k) = \tfrac1{NK} \sum_n \lVert P (z_n^{(k)} - z_n) \rVert^2

    z are the K logits, P removes their mean over the classes. Before each trial, the weights that read the layer are
    refitted to their dense outputs by least squares, in closed form from the dense second moments A:
    W' = W A_{:k} A_kk^-1. Squared logits rather than the Kullback-Leibler divergence: they add up better over layers
    (docs/log.md).

    Costs about `len(SHARES)` half forward passes per layer over `inputs`: what comes before the first changed module
    is run once for all trials. Ranks share the trials, so that each is the same on any number of them.

    Args:
        module: the dense network; eval mode is used.
        coupling: its channel layers.
        layers: those to narrow.
        scores: `(C,)` per layer name, larger = keep.
        moments: A by module name, of modules that read the layers (`KroneckerFactors.inputs`); those left out keep
            their weights.
        inputs: samples that made neither scores nor factors.
        progress: told once per trial.
    """
    losses: dict[str, list[float]] = {layer.name: [0.0] * len(widths(layer.size)) for layer in layers}
    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.no_grad())
        parts = list(map(arrangement(module, inputs), _parts(module, inputs)))
        total = math.ceil(len(parts) * sum(map(len, losses.values())) / ranks.world())
        bar = stack.enter_context(progress.bar("sensitivity", total))
        for some in _groups(coupling, layers):
            every = [(layer, i) for layer in some for i in range(len(widths(layer.size)))]
            trials = [
                _trial(module, coupling, layer, scores[layer.name], i, moments)
                for layer, i in every[ranks.rank() :: ranks.world()]  # later layers cost less
            ]
            for x in parts:
                with _recording(module) as record:
                    dense = logits(module, x)
                for trial in trials:
                    with silencing(module, trial.silence), _resuming(module, record, trial.changed):
                        losses[trial.layer][trial.number] += _moved(logits(module, x) - dense) / size(inputs)
                    bar.advance(trial.layer)
    found = {name: ranks.totals(*values) for name, values in losses.items()}
    return {layer.name: Curve(tuple(widths(layer.size)), tuple(found[layer.name])) for layer in layers}


def _groups(coupling: Coupling, layers: Sequence[ChannelLayer]) -> Iterator[list[ChannelLayer]]:
    """Layers whose trials hold at most `MEMORY` bytes of weights together; at least one at a time."""
    some: list[ChannelLayer] = []
    held = 0
    for layer in layers:
        read = {s.tensor for s in layer.having(Role.CONSUMER)}
        needed = len(SHARES) * sum(coupling.tensors[n].shape.numel() * coupling.tensors[n].itemsize for n in read)
        if some and held + needed > MEMORY:
            yield some
            some, held = [], 0
        some.append(layer)
        held += needed
    if some:
        yield some


@torch.no_grad()
def distance(dense: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """How far the logits of two networks are apart: the loss of `measure`."""
    step = 512
    parts = list(map(arrangement(dense, inputs), split(inputs, step)))
    with evaluating(dense, other):
        return sum(_moved(logits(other, x) - logits(dense, x)) for x in parts) / size(inputs)


def _moved(gap: Tensor) -> float:
    """Sum over samples of the mean square of centred logits."""
    return float((gap - gap.mean(1, keepdim=True)).square().mean(1).sum(dtype=wide(gap.device)))


def widths(channels: int) -> list[int]:
    """The widths that are tried, descending."""
    return sorted({max(1, round(share * channels)) for share in SHARES} - {channels}, reverse=True)


@dataclass(frozen=True)
class _Trial:
    """A layer at one width, of that number: the tensors that differ, and the modules that hold them."""

    layer: str
    number: int
    silence: Silence
    changed: frozenset[str]


def _trial(
    module: nn.Module,
    coupling: Coupling,
    layer: ChannelLayer,
    scores: Tensor,
    number: int,
    moments: Mapping[str, InputMoment],
) -> _Trial:
    mask = torch.zeros(layer.size, dtype=torch.bool)
    mask[scores.argsort(stable=True)[layer.size - widths(layer.size)[number] :]] = True
    silent = silence(module, coupling, {layer.name: mask})
    tensors = dict(silent.tensors)
    calls = {call.weight: call for call in coupling.computations if call.owned}
    for s in () if layer.gated else layer.having(Role.CONSUMER):
        if s.tensor in calls and calls[s.tensor].module in moments:
            moment = moments[calls[s.tensor].module]
            tensors |= _refitted(module, coupling, calls[s.tensor], s.index[~mask], moment)
    changed = frozenset(name.rpartition(".")[0] for name in (*tensors, *silent.narrow))
    return _Trial(layer.name, number, Silence(tensors, silent.narrow), changed)


@torch.no_grad()
def _refitted(
    module: nn.Module, coupling: Coupling, call: Computation, gone: Tensor, moment: InputMoment
) -> dict[str, Tensor]:
    """The weight (and the bias, or the mean of the norm behind it) that makes up for the positions `gone`."""
    owner: Any = module.get_submodule(call.module)
    A = moment.dense()
    W = matrix(owner).to(A)
    norm = call.norm if owner.bias is None and coupling.owns_norm(call) else None
    bias = torch.zeros_like(W[..., 0]) if owner.bias is None else owner.bias.to(A).reshape(W.shape[:2])
    W = torch.cat([W, bias[..., None]], -1)
    stays = torch.ones(W.shape[-1], dtype=torch.bool, device=A.device)
    stays[rows_read(owner, gone).flatten().to(A.device)] = False
    stays[-1] = owner.bias is not None or norm is not None
    at = stays.nonzero()[:, 0]
    known = Moments(A[:, at[:, None], at], (W @ A)[..., at], 0.0)
    del A  # as wide as those that come next
    V = torch.zeros_like(W).index_copy_(2, at, fit(known, W[:, :, at], DAMPING))
    found = {call.weight: assigned(owner, V[..., :-1])}
    if owner.bias is not None and call.bias is not None:
        found[call.bias] = V[..., -1].reshape(-1).to(owner.bias)
    if norm is not None:
        mean = dict(module.named_buffers())[norm]
        found[norm] = mean - V[..., -1].reshape(-1).to(mean)
    return found


# --- trials share what comes before the first module that differs -----------------------------------------------------


@dataclass
class _Record:
    """One pass of the dense network: for each module called once, when its call began and ended, and its output."""

    clock: int = 0
    began: dict[nn.Module, int] = field(default_factory=dict)
    ended: dict[nn.Module, int] = field(default_factory=dict)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    repeated: set[nn.Module] = field(default_factory=set)


@contextmanager
def _recording(module: nn.Module) -> Iterator[_Record]:
    record, last = _Record(), [(torch.empty(0), 0, torch.empty(0))]

    def before(m: nn.Module, _: Any) -> None:
        record.clock += 1
        if m in record.began:
            record.repeated.add(m)
        else:
            record.began[m] = record.clock

    def after(m: nn.Module, _: Any, y: Any) -> None:
        record.clock += 1
        record.ended[m] = record.clock
        if isinstance(y, Tensor):
            given, version, copy = last[0]  # a container returns what its last child returned
            now = y._version  # noqa: SLF001 - torch's own count of in-place changes
            copy = copy if y is given and now == version else y.clone()
            last[0] = (y, now, copy)
            record.outputs[m] = copy

    with ExitStack() as stack:
        for m in module.modules():
            if m is not module:
                stack.callback(m.register_forward_pre_hook(before).remove)
                stack.callback(m.register_forward_hook(after).remove)
        yield record


@contextmanager
def _resuming(module: nn.Module, record: _Record, changed: frozenset[str]) -> Iterator[None]:
    """Modules that were called once, and had ended before the first changed one began, return what they returned."""
    first = min((record.began.get(module.get_submodule(name), 0) for name in changed), default=0)
    early = [
        m
        for m, y in record.outputs.items()
        if record.ended[m] < first and m not in record.repeated and "forward" not in vars(m)
    ]
    try:
        for m in early:
            m.forward = _Returning(record.outputs[m])
        yield
    finally:
        for m in early:
            del m.forward


class _Returning:
    """Gives a copy, which what follows may change in place."""

    def __init__(self, output: Tensor) -> None:
        self._output = output

    def __call__(self, *_: Any, **__: Any) -> Tensor:
        return self._output.clone()


def _parts(module: nn.Module, inputs: Inputs) -> Iterator[Inputs]:
    """The samples in parts whose records fit into `MEMORY`."""
    with _recording(module) as record:
        logits(module, head(inputs, 1))
    distinct = {y.data_ptr(): y.nbytes for y in record.outputs.values()}
    step = max(1, MEMORY // max(1, sum(distinct.values())))
    yield from split(inputs, step)
