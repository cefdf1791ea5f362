"""Plan, cut and prove until the proof holds; then correct the weights that stay."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from infprune import compensation, forward, ranks, selection
from infprune.coupling.groups import ChannelLayer, Coupling
from infprune.data.loaders import Batches
from infprune.errors import ArchitectureError
from infprune.evaluation import evaluate
from infprune.forward import Inputs
from infprune.pipeline.timing import fast_enough
from infprune.progress import Progress
from infprune.proof import Proof, prove
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, Limits, PruningPlan
from infprune.surgery import Kept, kept_positions, resized


@dataclass(frozen=True)
class Cut:
    """A smaller network with its plan, the positions that stayed, its proof, and why the proof froze layers."""

    module: nn.Module
    plan: PruningPlan
    kept: Kept
    proof: Proof
    frozen: Mapping[str, str]


@dataclass(frozen=True)
class Correction:
    """How the weights that stay are corrected.

    `mode`: ls or ls+bn. `damping`: of the least squares, None chooses. `positions`: output positions per sample that
    enter it, None all.
    """

    mode: str
    damping: float | None
    positions: int | None


def cut(
    module: nn.Module,
    coupling: Coupling,
    layers: tuple[ChannelLayer, ...],
    scores: ChannelScores,
    budget: Budget,
    limits: Limits,
    inputs: Inputs,
) -> Cut:
    """Select, cut and prove on real and random inputs; a layer whose cut fails is frozen and the plan made again.

    Raises:
        ArchitectureError: the cut is wrong and no single layer explains it.
        BudgetError: the budget cannot be met with what is left.
    """
    noise = forward.noise_like(inputs, seed=0)
    frozen: dict[str, str] = {}
    while True:
        if not layers:
            told = "; ".join(f"{name}: {reason}" for name, reason in frozen.items())
            raise ArchitectureError(f"nothing is left to cut, the proof failed everywhere: {told}")
        plan = planned(module, coupling, layers, scores, budget, limits, inputs)
        kept = kept_positions(coupling, plan.masks)
        ranks.alike("plan", str({name: mask.tolist() for name, mask in plan.masks.items()}))
        small = resized(module, kept)
        proof = prove(module, small, coupling, plan.masks, (inputs, noise))
        if proof.holds:
            return Cut(small, plan, kept, proof, frozen)
        names = {name for name, _ in proof.failed}
        if names == {""}:
            raise ArchitectureError(f"the smaller network is not equal to the masked one: {proof.failed[0][1]}")
        frozen |= dict(proof.failed)
        layers = tuple(layer for layer in layers if layer.name not in names)


def planned(
    module: nn.Module,
    coupling: Coupling,
    layers: tuple[ChannelLayer, ...],
    scores: ChannelScores,
    budget: Budget,
    limits: Limits,
    inputs: Inputs,
) -> PruningPlan:
    """Select for any budget; one of time is measured on the first of the inputs.

    Raises:
        BudgetError: it cannot be met.
    """
    if budget.latency is None:
        return selection.select(coupling, layers, scores, budget, limits)
    return fast_enough(module, coupling, layers, scores, budget.latency, limits, forward.head(inputs, 1))


def carry_out(module: nn.Module, coupling: Coupling, plan: PruningPlan, inputs: Inputs) -> Cut:
    """Cut and prove, on real and random inputs, a plan that is not to be changed.

    Raises:
        ArchitectureError: the proof does not hold; names the layers at fault.
    """
    kept = kept_positions(coupling, plan.masks)
    small = resized(module, kept)
    proof = prove(module, small, coupling, plan.masks, (inputs, forward.noise_like(inputs, seed=0)))
    if not proof.holds:
        told = "; ".join(f"{name or 'the joint cut'}: {reason}" for name, reason in proof.failed)
        raise ArchitectureError(f"the cut that was learned is wrong, add these layers to prune.protect: {told}")
    return Cut(small, plan, kept, proof, {})


def compensate(
    dense: nn.Module,
    cut_network: Cut,
    coupling: Coupling,
    how: Correction,
    calibration: Batches,
    validation: Batches,
    progress: Progress,
) -> nn.Module:
    """Correct a copy of the cut network: least squares (`ls`), then batch-norm statistics (`ls+bn`).

    New statistics are kept only if the validation loss falls: refitted intercepts already carry the means, and on few
    calibration samples the new variances can cost more than they give.
    """
    small = copy.deepcopy(cut_network.module)
    compensation.least_squares(
        dense,
        small,
        coupling,
        cut_network.kept,
        calibration,
        damping=how.damping,
        positions=how.positions,
        progress=progress,
    )
    if how.mode == "ls" or not compensation.has_statistics(small):
        return small
    recalibrated = copy.deepcopy(small)
    compensation.recalibrate(recalibrated, calibration)
    better = evaluate(recalibrated, validation).loss < evaluate(small, validation).loss
    return recalibrated if better else small
