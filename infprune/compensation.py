"""Correct the weights that stay: least squares on every consumer, then batch-norm statistics."""

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infprune.coupling.groups import Computation, Coupling
from infprune.curvature.patches import assign, chunks, columns, matrix, outputs
from infprune.curvature.sweep import sharing
from infprune.forward import Inputs, run, size
from infprune.lockstep import Pairs, lockstep
from infprune.modes import evaluating
from infprune.progress import Progress, Silent
from infprune.regression import Moments, chosen_damping, fit, moments
from infprune.surgery import Kept

Batches = Iterable[tuple[Inputs, Tensor]]
FOLDS = 3
WIDEST = 12_288  # entries of a Gram matrix: four float64 copies are then 4.5 GiB
UNKNOWN = 1e-3  # the damping when there is a single batch, so nothing to hold out


@dataclass(frozen=True)
class Fit:
    """One refitted weight: the share of the target's energy that stays unexplained, before and after, and the ridge."""

    module: str
    before: float
    after: float
    damping: float


def least_squares(
    dense: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    kept: Kept,
    batches: Batches,
    *,
    damping: float | None = None,
    progress: Progress = Silent(),  # noqa: B008 - stateless
) -> tuple[Fit, ...]:
    r"""Refit, in place and in graph order, every weight of `small` whose input has changed.

    .. math:: W' = \arg\min_V \tfrac1N \lVert Y - V \tilde X \rVert^2 + \mu \lVert V - W \rVert^2

    Y are the dense network's outputs of that layer, X~ the im2col inputs in the network pruned *and refitted so far*,
    with a row of ones for the bias; mu = `damping` times the mean diagonal of X~ X~^T / N. A weight without a bias
    that only a batch norm reads gets its intercept through the norm's running mean. A weight tied between modules with
    biases of their own is left as it was cut.

    Costs one pass of both networks, which wait at each weight until it is refitted (see `lockstep`), and holds their
    current activations; where those would not fit, one pass up to the layer per weight, holding one batch.

    Args:
        dense: the network before the cut, eval mode is used.
        small: the network after it.
        coupling: of the dense network; its computations give the order.
        kept: the positions that stayed.
        batches: calibration samples.
        damping: relative ridge towards the weight as it was cut; None chooses it per weight on held-out samples (every
            third batch in turn).
        progress: told once per weight.
    """
    todo = [call for call in _affected(coupling, kept) if len(sharing(small, call.module)) == 1]
    fits = []
    names = [call.module for call in todo]
    with ExitStack() as stack:
        bar = stack.enter_context(progress.bar("least squares", len(todo)))
        stack.enter_context(evaluating(dense, small))
        stack.enter_context(torch.no_grad())
        pairs = stack.enter_context(lockstep(dense, small, names, batches))
        buffers = dict(small.named_buffers())
        for call in todo:
            calls = sum(c.weight == call.weight for c in coupling.computations)
            mean = buffers[call.norm] if call.norm is not None and _owns_norm(coupling, call) else None
            fits.append(_refit(small, pairs, call, calls, kept, mean, damping))
            bar.advance(call.module)
    return tuple(fits)


def has_statistics(module: nn.Module) -> bool:
    """Whether the network has batch norms with running statistics."""
    return bool(_norms(module))


def _norms(module: nn.Module) -> list[Any]:
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))  # noqa: SLF001 - the base
    return [m for m in norms if m.track_running_stats]


def recalibrate(module: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of every batch norm by their means over `batches` (one pass), in place.

    Batches of one sample have no variance and are left out; if there are no others, the statistics stay.
    """
    norms = _norms(module)
    inputs = (x for x, _ in batches if size(x) > 1)
    first = next(inputs, None) if norms else None
    if first is None:
        return
    momenta = [m.momentum for m in norms]
    try:
        with evaluating(module), torch.no_grad():
            for m in norms:
                m.reset_running_stats()
                m.momentum = None  # cumulative mean
                m.train()
            for x in itertools.chain([first], inputs):
                run(module, x)
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum


def _affected(coupling: Coupling, kept: Kept) -> list[Computation]:
    """Calls from the first one that lost inputs on, each weight once.

    Depthwise filters mix nothing; weights outside a module and those whose Gram matrix is too wide stay as cut.
    """
    found: dict[str, Computation] = {}
    started = False
    for call in coupling.computations:
        started = started or call.input_dim in kept.get(call.weight, {})
        depthwise = call.groups > 1 and coupling.tensors[call.weight].shape[1] == 1
        shape = coupling.tensors[call.weight].shape
        narrow = shape.numel() // shape[call.output_dim] <= WIDEST
        if started and not depthwise and call.owned and narrow:
            found.setdefault(call.weight, call)
    return list(found.values())


def _refit(
    small: nn.Module,
    pairs: Pairs,
    call: Computation,
    calls: int,
    kept: Kept,
    running_mean: Tensor | None,
    damping: float | None,
) -> Fit:
    module: Any = small.get_submodule(call.module)
    rows = kept.get(call.weight, {}).get(call.output_dim)
    ones = module.bias is not None or running_mean is not None
    folds: dict[int, Moments] = {}
    for i, y, x in pairs.of(call.module, calls):
        for part in _moments(module, x, y, rows, ones=ones):
            folds[i % FOLDS] = folds[i % FOLDS] + part if i % FOLDS in folds else part
    total = functools.reduce(operator.add, folds.values())
    old = _weights(module, total, ones=ones)
    if damping is None:
        damping = chosen_damping(list(folds.values()), old) if len(folds) > 1 else UNKNOWN
    new = fit(total, old, damping)
    _store(module, new, running_mean, ones=ones)
    return Fit(call.module, total.residual(old), total.residual(new), damping)


def _owns_norm(coupling: Coupling, call: Computation) -> bool:
    """Whether the norm behind a weight reads nothing but this weight's outputs."""
    readers = [c.weight for c in coupling.computations if c.norm == call.norm]
    calls = [c.norm for c in coupling.computations if c.weight == call.weight]
    return set(readers) == {call.weight} and set(calls) == {call.norm}


def _moments(module: Any, x: Tensor, y: Tensor, rows: Tensor | None, *, ones: bool) -> Iterator[Moments]:
    """Second moments of a layer's inputs in the small network and its kept outputs in the dense one, in chunks."""
    if rows is not None:
        y = y.index_select(y.dim() - 1 if isinstance(module, nn.Linear) else 1, rows.to(y.device))
    for part in chunks(module, x):
        yield moments(columns(module, x[part], ones=ones), outputs(module, y[part]))


def _weights(module: Any, like: Moments, *, ones: bool) -> Tensor:
    """The weight as `(G, O/G, D)`, with the bias as its last column if the inputs have a row of ones."""
    groups, rows, _ = like.cross.shape
    weight = matrix(module).to(like.gram.dtype)
    if not ones:
        return weight
    bias = torch.zeros_like(weight[..., 0]) if module.bias is None else module.bias.reshape(groups, rows)
    return torch.cat([weight, bias.to(weight)[..., None]], dim=-1)


def _store(module: Any, new: Tensor, running_mean: Tensor | None, *, ones: bool) -> None:
    if ones:
        intercept = new[..., -1].reshape(-1)
        if module.bias is not None:
            module.bias.copy_(intercept)
        elif running_mean is not None:
            running_mean.sub_(intercept.to(running_mean))
        new = new[..., :-1]
    assign(module, new)
