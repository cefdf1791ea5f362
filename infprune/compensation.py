"""Correct the weights that stay: least squares on every consumer, then batch-norm statistics."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infprune.coupling.groups import Computation, Coupling
from infprune.curvature.kronecker import wide
from infprune.curvature.patches import chunks, columns, outputs
from infprune.modes import evaluating
from infprune.progress import Progress, Silent
from infprune.surgery import Kept

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Fit:
    """One refitted weight. `residual`: share of the target's energy that stays unexplained, before and after."""

    module: str
    before: float
    after: float


def least_squares(
    dense: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    kept: Kept,
    batches: Batches,
    *,
    damping: float = 1e-4,
    progress: Progress = Silent(),  # noqa: B008 - stateless
) -> tuple[Fit, ...]:
    r"""Refit, in place and in graph order, every weight of `small` whose input has changed.

    .. math:: W' = \arg\min_V \tfrac1N \lVert Y - V \tilde X \rVert^2 + \mu \lVert V - W \rVert^2

    Y are the dense network's outputs of that layer, X~ the im2col inputs in the network pruned *and refitted so far*,
    with a row of ones for the bias; mu = `damping` times the mean diagonal of X~ X~^T / N. A weight without a bias
    in front of a batch norm gets its intercept through the norm's running mean.

    One pass of both networks up to the layer per refitted weight; memory is one batch plus the Gram matrices.

    Args:
        dense: the network before the cut, eval mode is used.
        small: the network after it.
        coupling: of the dense network; its computations give the order.
        kept: the positions that stayed.
        batches: calibration samples.
        damping: relative ridge towards the weight as it was cut.
        progress: told once per weight.
    """
    todo = _affected(coupling, kept)
    fits = []
    with progress.bar("least squares", len(todo)) as bar, evaluating(dense, small), torch.no_grad():
        norms = _following_norms(small, todo, batches)
        for call in todo:
            calls = sum(c.weight == call.weight for c in coupling.computations)
            fits.append(_refit(dense, small, call, calls, kept, batches, norms.get(call.module), damping))
            bar.advance(call.module)
    return tuple(fits)


def recalibrate(module: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of every batch norm by their means over `batches` (one pass), in place."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 - the base
    norms = [m for m in norms if m.track_running_stats]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    with evaluating(module), torch.no_grad():
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # cumulative mean
            m.train()
        for x, _ in batches:
            if len(x) > 1:
                module(x)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def _affected(coupling: Coupling, kept: Kept) -> list[Computation]:
    """Calls from the first one that lost inputs on, each weight once; depthwise filters mix nothing."""
    found: dict[str, Computation] = {}
    started = False
    for call in coupling.computations:
        started = started or 1 in kept.get(call.weight, {})
        depthwise = call.groups > 1 and coupling.tensors[call.weight].shape[1] == 1
        if started and not depthwise:
            found.setdefault(call.weight, call)
    return list(found.values())


@dataclass
class _Moments:
    """Sums over samples and positions: A = X X^T, B = Y X^T, |Y|^2, and the number of columns."""

    inputs: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    energy: float = 0.0


def _refit(
    dense: nn.Module,
    small: nn.Module,
    call: Computation,
    calls: int,
    kept: Kept,
    batches: Batches,
    norm: nn.Module | None,
    damping: float,
) -> Fit:
    module: Any = small.get_submodule(call.module)
    rows = kept.get(call.weight, {}).get(0)
    intercept = module.bias is not None or norm is not None
    moments = _Moments()
    for x, _ in batches:
        truths = _recorded(dense, call.module, x, calls, "output")
        inputs = _recorded(small, call.module, x, calls, "input")
        for y, x_small in zip(truths, inputs, strict=True):
            _accumulate(moments, module, x_small, y, rows, ones=intercept)
    return _solve(module, call.module, moments, norm, damping, ones=intercept)


def _accumulate(moments: _Moments, module: Any, x: Tensor, y: Tensor, rows: Tensor | None, *, ones: bool) -> None:
    for part in chunks(module, x):
        a = columns(module, x[part], ones=ones)
        if rows is not None:
            dim = y.dim() - 1 if isinstance(module, nn.Linear) else 1
            b = outputs(module, y[part].index_select(dim, rows.to(y.device)))
        else:
            b = outputs(module, y[part])
        double = wide(a.device)
        moments.inputs = moments.inputs + (a @ a.mT).to(double)
        moments.cross = moments.cross + (b @ a.mT).to(double)
        moments.energy += float(b.square().sum(dtype=double))


def _solve(module: Any, name: str, moments: _Moments, norm: Any, damping: float, *, ones: bool) -> Fit:
    gram, cross = moments.inputs, moments.cross
    assert isinstance(gram, Tensor)
    assert isinstance(cross, Tensor)
    old = module.weight.to(gram.dtype).reshape(cross.shape[0], cross.shape[1], -1)
    if ones:
        bias = (
            torch.zeros_like(old[:, :, 0]) if module.bias is None else module.bias.to(gram.dtype).reshape(old.shape[:2])
        )
        old = torch.cat([old, bias[..., None]], dim=-1)
    ridge = gram.diagonal(dim1=-2, dim2=-1).mean(-1) * max(damping, 1e-10)
    ridge = ridge.clamp_min(torch.finfo(gram.dtype).tiny)
    damped = gram + ridge[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    new = old + torch.linalg.solve(damped, (cross - old @ gram).mT).mT
    if ones:
        if module.bias is not None:
            module.bias.copy_(new[..., -1].reshape(-1))
        else:
            norm.running_mean.sub_(new[..., -1].reshape(-1).to(norm.running_mean))
        module.weight.copy_(new[..., :-1].reshape(module.weight.shape))
    else:
        module.weight.copy_(new.reshape(module.weight.shape))

    def residual(w: Tensor) -> float:
        error = moments.energy - 2 * float((w * cross).sum()) + float((w * (w @ gram)).sum())
        return max(error, 0.0) / max(moments.energy, torch.finfo(gram.dtype).tiny)

    return Fit(name, residual(old), residual(new))


class _Stop(Exception):  # noqa: N818 - not an error: ends a forward pass that has given what was wanted
    """Nothing behind the watched layer is needed."""


def _recorded(network: nn.Module, name: str, x: Tensor, calls: int, what: str) -> list[Tensor]:
    """Inputs or outputs of a module in one forward pass, which ends at its last call."""
    found: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...], y: Tensor | None = None) -> None:
        found.append(args[0].clone() if what == "input" else y.clone())  # type: ignore[union-attr]
        if len(found) == calls:
            raise _Stop

    module = network.get_submodule(name)
    handle = module.register_forward_pre_hook(hook) if what == "input" else module.register_forward_hook(hook)
    try:
        network(x)
    except _Stop:
        pass
    finally:
        handle.remove()
    return found


def _following_norms(module: nn.Module, calls: Sequence[Computation], batches: Batches) -> dict[str, nn.Module]:
    """Batch norms that read exactly the output of a bias-free convolution: they can carry its intercept."""
    made: dict[int, str] = {}
    found: dict[str, nn.Module] = {}
    alive: list[Tensor] = []  # keeps ids unique

    def produced(name: str) -> Any:
        def hook(_: nn.Module, __: Any, y: Tensor) -> None:
            alive.append(y)
            made[id(y)] = name

        return hook

    def read(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if id(args[0]) in made:
            found[made[id(args[0])]] = norm

    with _handles() as handles:
        for call in calls:
            if call.bias is None:
                handles.append(module.get_submodule(call.module).register_forward_hook(produced(call.module)))
        for m in module.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats:  # noqa: SLF001 - the base
                handles.append(m.register_forward_pre_hook(read))
        for x, _ in batches:
            module(x[:2])
            break
    return found


@contextmanager
def _handles() -> Iterator[list[Any]]:
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
