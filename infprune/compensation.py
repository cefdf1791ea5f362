"""Correct the weights that stay: least squares on every consumer, then batch-norm statistics."""

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.coupling.groups import Computation, Coupling
from infprune.curvature.patches import assigned, chunks, columns, matrix, outputs
from infprune.curvature.positions import Positions
from infprune.curvature.sweep import sharing
from infprune.forward import Inputs, run, size
from infprune.lockstep import Pair, Pairs, lockstep
from infprune.modes import evaluating
from infprune.progress import Progress, Silent
from infprune.regression import Moments, chosen_damping, fit, moments
from infprune.surgery import Kept
from infprune.units import WIDEST

Batches = Iterable[tuple[Inputs, Tensor]]
FOLDS = 3
FAINT = 1e-4  # of the largest scale of a batch norm: what is below cannot be heard
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
    positions: int | None = None,
    progress: Progress = Silent(),  # noqa: B008 - stateless
) -> tuple[Fit, ...]:
    r"""Refit, in place and in graph order, every weight of `small` whose input has changed.

    .. math:: W' = \arg\min_V \tfrac1N \lVert Y - V \tilde X \rVert^2 + \mu \lVert V - W \rVert^2

    Y are the dense network's outputs of that layer, X~ the im2col inputs in the network pruned *and refitted so far*,
    with a row of ones for the bias; mu = `damping` times the mean diagonal of X~ X~^T / N. Where the output, past its
    batch norm, is added to something (a residual stream), Y is what makes the *sum* that of the dense network: the
    last weight before the addition also corrects the error that the other term has gathered (as He, Zhang and Sun 2017
    do for residual branches). A weight without a bias that only a batch norm reads gets its intercept through the
    norm's running mean. A weight tied between modules with biases of their own is left as it was cut.

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
        positions: output positions per sample that enter the sums (`curvature.positions`); None: all.
        progress: told once per weight.
    """
    todo = [call for call in _affected(coupling, kept) if len(sharing(small, call.module)) == 1]
    fits = []
    with ExitStack() as stack:
        bar = stack.enter_context(progress.bar("least squares", len(todo)))
        stack.enter_context(evaluating(dense, small))
        stack.enter_context(torch.no_grad())
        targets = [_Target(small, coupling, call, kept) for call in todo]
        ends = {target.call.module: target.end for target in targets}
        share = ranks.share(batches, least=1)
        pairs = stack.enter_context(lockstep(dense, small, ends, share.batches))
        for target in targets:
            fits.append(_refit(target, pairs, share, positions, damping))
            bar.advance(target.call.module)
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
    inputs = (x for x, _ in ranks.share(batches).batches if size(x) > 1)
    first = next(inputs, None) if norms else None
    if ranks.totals(float(first is not None))[0] == 0:
        return
    momenta = [m.momentum for m in norms]
    try:
        with evaluating(module), torch.no_grad():
            for m in norms:
                m.reset_running_stats()
                m.momentum = None  # cumulative mean
                m.train()
            for x in itertools.chain([] if first is None else [first], inputs):
                run(module, x)
            for m in norms:
                _mean_over_ranks(m)
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum


def _mean_over_ranks(norm: Any) -> None:
    """Each rank's statistics are the mean of its batches: weigh them by their number."""
    if ranks.world() == 1:
        return
    batches = ranks.total(norm.num_batches_tracked)
    for statistic in (norm.running_mean, norm.running_var):
        statistic.copy_(ranks.total(statistic * norm.num_batches_tracked) / batches)
    norm.num_batches_tracked.copy_(batches)


def _affected(coupling: Coupling, kept: Kept) -> list[Computation]:
    """Calls from the first one that lost inputs on, each weight once.

    Weights outside a module and those whose Gram matrix is too wide stay as cut.
    """
    found: dict[str, Computation] = {}
    started = False
    for call in coupling.computations:
        started = started or call.input_dim in kept.get(call.weight, {})
        shape = coupling.tensors[call.weight].shape
        narrow = shape.numel() // shape[call.output_dim] <= WIDEST
        if started and call.owned and narrow:
            found.setdefault(call.weight, call)
    return list(found.values())


class _Target:
    """One weight of the small network, the norm that alone reads it, and the rows of it that stayed."""

    def __init__(self, small: nn.Module, coupling: Coupling, call: Computation, kept: Kept) -> None:
        self.call = call
        self.module: Any = small.get_submodule(call.module)
        self.calls = sum(c.weight == call.weight for c in coupling.computations)
        self.rows = kept.get(call.weight, {}).get(call.output_dim)
        owner = call.norm.rpartition(".")[0] if call.norm is not None and coupling.owns_norm(call) else None
        self.norm: Any = None if owner is None else small.get_submodule(owner)
        self.ones = getattr(self.module, "bias", None) is not None or owner is not None
        alone = call.summed and self.calls == 1 and (call.norm is None or owner is not None)
        self.end = (owner or call.module) if alone else None

    def of(self, pair: Pair) -> Tensor:
        """What the weight should put out."""
        y = pair.y
        if self.rows is not None:
            y = y.index_select(self._axis(y), self.rows.to(y.device))
        if pair.other is None:
            return y
        y = y - pair.other
        return y if self.norm is None else self._before_norm(y)

    def _before_norm(self, y: Tensor) -> Tensor:
        """Undo the batch norm; a channel that it scales down to nothing could not be told apart."""
        norm, shape = self.norm, [-1 if d == 1 else 1 for d in range(y.dim())]
        scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias
        heard = scale.abs() > FAINT * scale.abs().max()
        undone = (y - shift.reshape(shape)) / scale.where(heard, 1.0).reshape(shape)
        found: Tensor = undone.where(heard.reshape(shape), 0.0) + norm.running_mean.reshape(shape)
        return found

    def _axis(self, y: Tensor) -> int:
        return y.dim() - 1 if isinstance(self.module, nn.Linear) else 1


def _refit(target: _Target, pairs: Pairs, share: ranks.Share, positions: int | None, damping: float | None) -> Fit:
    module, name = target.module, target.call.module
    found: dict[int, Moments] = {}
    seen = Counter[int](dict.fromkeys(range(target.calls), share.skipped))  # samples before, in each call of it
    for number, pair in enumerate(pairs.of(name, target.calls)):
        call = number % target.calls
        at = Positions(positions, seen[call])
        seen[call] += len(pair.x)
        for part in _moments(module, pair.x, target.of(pair), at, ones=target.ones):
            i = (share.first + pair.batch) % FOLDS
            found[i] = found[i] + part if i in found else part
    folds = _of_all_ranks(found, share.count)
    total = functools.reduce(operator.add, folds.values())
    old = _weights(module, total, ones=target.ones)
    if damping is None:
        damping = chosen_damping(list(folds.values()), old) if len(folds) > 1 else UNKNOWN
    new = ranks.agreed(fit(total, old, damping))
    _store(module, new, None if target.norm is None else target.norm.running_mean, ones=target.ones)
    return Fit(name, total.residual(old), total.residual(new), damping)


def _of_all_ranks(found: dict[int, Moments], batches: int) -> dict[int, Moments]:
    """The sums over ranks of the folds of so many batches; a rank may have seen none of some fold."""
    if ranks.world() == 1:
        return found
    like = next(iter(found.values()))
    none = Moments(torch.zeros_like(like.gram), torch.zeros_like(like.cross), 0.0)
    mine = [found.get(i, none) for i in range(min(FOLDS, batches))]
    return {
        i: Moments(ranks.total(m.gram), ranks.total(m.cross), ranks.totals(m.energy)[0]) for i, m in enumerate(mine)
    }


def _moments(module: Any, x: Tensor, y: Tensor, at: Positions, *, ones: bool) -> Iterator[Moments]:
    """Second moments of a layer's inputs and its targets, in chunks."""
    for part, where in chunks(module, x, at=at):
        yield moments(columns(module, x[part], ones=ones, at=where), outputs(module, y[part], where))


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
    module.weight.copy_(assigned(module, new))
