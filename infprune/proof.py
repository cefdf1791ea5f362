"""The proof that surgery was right: the smaller network equals the dense one with the same channels silenced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infprune.coupling.groups import Coupling
from infprune.modes import evaluating
from infprune.surgery import Masks, cut, silenced

TOLERANCE = 1e-5  # relative, float32


@dataclass(frozen=True)
class Proof:
    """`max_relative_error`: max |small - silenced| / max |silenced| over the inputs; infinite if the forward fails.

    `failed`: layers whose own cut breaks the equality, each with the reason. `holds` is the verdict.
    """

    max_relative_error: float
    failed: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether the two networks agree."""
        return self.max_relative_error <= TOLERANCE


def prove(module: nn.Module, small: nn.Module, coupling: Coupling, masks: Masks, inputs: Sequence[Tensor]) -> Proof:
    """Compare the outputs of `small` with those of `module` whose dropped channels are zero where they are read.

    If they differ, each layer's cut is tried alone, to name the ones that fail.
    """
    error, reason = _compare(silenced(module, coupling, masks), small, inputs)
    if error <= TOLERANCE:
        return Proof(error, ())
    failed = []
    for name, mask in masks.items():
        if bool(mask.all()):
            continue
        alone, why = _compare(silenced(module, coupling, {name: mask}), cut(module, coupling, {name: mask}), inputs)
        if alone > TOLERANCE:
            failed.append((name, why or f"relative error {alone:.1e}"))
    return Proof(error, tuple(failed) or (("", reason or f"relative error {error:.1e} of the joint cut"),))


@torch.no_grad()
def _compare(dense: nn.Module, small: nn.Module, inputs: Sequence[Tensor]) -> tuple[float, str | None]:
    worst = 0.0
    for x in inputs:
        with evaluating(dense, small):
            truth = dense(x)
            try:
                found = small(x)
            except (RuntimeError, ValueError, IndexError) as error:
                return float("inf"), str(error).splitlines()[0]
        if found.shape != truth.shape:
            return float("inf"), f"output shape {tuple(found.shape)}, expected {tuple(truth.shape)}"
        scale = truth.abs().max().clamp_min(torch.finfo(truth.dtype).tiny)
        relative = float((found - truth).abs().max() / scale)
        if math.isnan(relative):
            return float("inf"), "NaN in the outputs"
        worst = max(worst, relative)
    return worst, None
