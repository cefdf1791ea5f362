"""One calibration pass for any number of criteria, then their scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.coupling.groups import ChannelLayer, CoupledSlice, Role
from infprune.curvature.gates import GateObserver, heard
from infprune.curvature.kronecker import KroneckerObserver, MomentsObserver
from infprune.curvature.patches import matrix
from infprune.curvature.products import MaskGradientObserver, filters
from infprune.curvature.sweep import Batches, LabelSource, Observer, Sweep
from infprune.errors import ConfigError, InputError
from infprune.scores import SCORES
from infprune.scores.contract import ChannelScores, Criterion, Need, ScoringInputs, Statistics
from infprune.units import WIDEST


def needs_of(criteria: Iterable[str]) -> frozenset[Need]:
    """What the calibration pass must collect for these criteria."""
    return frozenset().union(*(SCORES[name].needs for name in criteria))


def collect(
    module: nn.Module,
    layers: Sequence[ChannelLayer],
    batches: Batches,
    needs: frozenset[Need],
    *,
    seed: int,
    draws: int,
    positions: int | None = None,
    precision: str = "float32",
    before: Sequence[int] = (),
) -> Statistics:
    """Run one pass over `batches` and collect what `needs` names; nothing is run if nothing is needed.

    `precision` is that of the network's own products, `float32` or `bf16`; sums are those of its weights' type. Each
    rank gives its share of the batches, `before` which those of these sizes go to lower ranks; all get the same.

    Raises:
        ConfigError: a Kronecker factor would not fit into memory.
        InputError: a statistic is not finite.
    """
    if not needs:
        return Statistics()
    readers = sorted(_modules(s for layer in layers if not layer.gated for s in layer.having(Role.CONSUMER)))
    gated = [layer for layer in layers if layer.gated]
    producers = sorted(_modules(s for layer in gated for s in filters(layer)))
    if Need.KRONECKER in needs:
        _check_width(module, readers)
        needs -= {Need.MOMENTS}
    kronecker = KroneckerObserver(readers, positions, first=sum(before))
    moments = MomentsObserver([name for name in readers if _width(module, name) <= WIDEST], positions, sum(before))
    gates = {
        LabelSource.MODEL: GateObserver(layers if Need.GATES_MODEL in needs else gated, LabelSource.MODEL),
        LabelSource.DATA: GateObserver(layers, LabelSource.DATA),
    }
    if Need.KRONECKER in needs and gated:
        needs |= {Need.GATES_MODEL}  # of these layers alone
    masks = MaskGradientObserver(module, layers)
    chosen: dict[Need, Observer] = {
        Need.KRONECKER: kronecker,
        Need.MOMENTS: moments,
        Need.GATES_MODEL: gates[LabelSource.MODEL],
        Need.GATES_DATA: gates[LabelSource.DATA],
        Need.MASK_GRADIENTS: masks,
    }
    watched = sorted({*readers, *producers, *_modules(s for layer in gated for s in heard(layer))})
    sweep = Sweep(module, watched, [chosen[n] for n in sorted(needs)], precision=precision)
    sweep.run(batches, seed=seed, draws=draws, before=before)
    factors = kronecker.result(draws) if Need.KRONECKER in needs else {}
    inputs = {name: f.inputs for name, f in factors.items()}
    return Statistics(
        kronecker=factors,
        moments=moments.result() if Need.MOMENTS in needs else inputs,
        gates_model=gates[LabelSource.MODEL].result() if Need.GATES_MODEL in needs else {},
        gates_data=gates[LabelSource.DATA].result() if Need.GATES_DATA in needs else {},
        mask_gradients=masks.result() if Need.MASK_GRADIENTS in needs else {},
    )


def _modules(slices: Iterable[CoupledSlice]) -> set[str]:
    return {s.tensor.rpartition(".")[0] for s in slices}


def score(criterion: str, inputs: ScoringInputs) -> ChannelScores:
    """Score every channel of `inputs.layers` by one criterion of `SCORES`.

    Raises:
        ConfigError: the curvature cannot be inverted with this damping.
        InputError: a score is NaN or infinite (NaN in weights or data).
    """
    entry = SCORES[criterion]
    try:
        values = _shared(entry, inputs) if entry.separable else _plain(entry.score(inputs))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ConfigError(
            f"{criterion}: the curvature is singular to rounding; raise score.damping, or use auto"
        ) from error
    values = {name: ranks.agreed(v) for name, v in values.items()}
    for name, v in values.items():
        if not bool(torch.isfinite(v).all()):
            raise InputError(f"{criterion}: the score of {name} is not finite; check weights and data for NaN")
    return ChannelScores(criterion, entry.unit, values)


def _plain(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: v.detach().cpu().double() for name, v in found.items()}


def _shared(entry: Criterion, inputs: ScoringInputs) -> dict[str, Tensor]:
    """Score the layers, of which every rank factorises some."""
    mine = [inputs.layers[i] for i in ranks.heaviest_first([_cost(inputs.module, layer) for layer in inputs.layers])]
    found = _plain(entry.score(replace(inputs, layers=mine)))
    if ranks.world() == 1:
        return found
    none = {layer.name: torch.zeros(layer.size, dtype=torch.float64) for layer in inputs.layers}
    return {name: ranks.total(found.get(name, v)) for name, v in none.items()}


def _cost(module: nn.Module, layer: ChannelLayer) -> float:
    """Operations, about: an inverse of each matrix that reads the layer, and an update of it per channel."""
    read = () if layer.gated else layer.having(Role.CONSUMER)
    widths = [_width(module, name) for name in _modules(read)]
    return sum(width**3 + layer.size * width**2 for width in widths)


def _check_width(module: nn.Module, watched: Sequence[str]) -> None:
    for name in watched:
        width = _width(module, name)
        if width > WIDEST:
            raise ConfigError(
                f"{name} reads {width} inputs, its Gram matrix would take {8 * width**2 / 2**30:.1f} GiB; "
                "use score.criterion=taylor or add the layer before it to prune.protect"
            )


def _width(module: nn.Module, name: str) -> int:
    return matrix(module.get_submodule(name)).shape[-1] + 1
