"""The proof that surgery was right: the smaller network equals the dense one with the same channels silenced."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from infprune import forward
from infprune.coupling.groups import Coupling
from infprune.errors import out_of_memory
from infprune.forward import Inputs
from infprune.imports import one_line
from infprune.modes import evaluating
from infprune.surgery import Masks, cut, silenced

TOLERANCE = 1e-5  # relative, float32


@dataclass(frozen=True)
class Proof:
    """`max_relative_error`: max |small - silenced| / max |silenced| over the inputs; infinite if the forward fails.

    `failed`: layers without whose cut the equality holds, each with the reason; an empty name where no layer is at
    fault. `holds` is the verdict.
    """

    max_relative_error: float
    failed: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether the two networks agree."""
        return self.max_relative_error <= TOLERANCE


def prove(module: nn.Module, small: nn.Module, coupling: Coupling, masks: Masks, inputs: Sequence[Inputs]) -> Proof:
    """Compare the outputs of `small` with those of `module` whose dropped channels are zero where they are read.

    If they differ, `blame` names the layers whose cut is at fault.
    """
    error, reason = difference(silenced(module, coupling, masks), small, inputs)
    if error <= TOLERANCE:
        return Proof(error, ())
    whole = fault(module, coupling, {}, inputs)  # e.g. inputs that hold NaN
    failed = blame(module, coupling, masks, inputs) if whole is None else {}
    return Proof(error, tuple(failed.items()) or (("", reason or f"relative error {error:.1e} of the joint cut"),))


def blame(
    module: nn.Module, coupling: Coupling, masks: Masks, inputs: Sequence[Inputs], end: float = math.inf
) -> dict[str, str]:
    """Layers without which the cut of the others holds, each with what its cut breaks.

    Found by bisection, one after the other: the first layer that breaks what its predecessors left whole.

    Args:
        module: the dense network.
        coupling: its channel layers.
        masks: the cut.
        inputs: batches to compare on.
        end: when to stop searching (`time.monotonic`); all layers left over by then are named.
    """
    found: dict[str, str] = {}
    while left := {name: mask for name, mask in masks.items() if name not in found and not bool(mask.all())}:
        if time.monotonic() > end:
            return found | dict.fromkeys(left, "not tried for lack of time")
        why = fault(module, coupling, left, inputs)
        if why is None:
            break
        names, good, bad = list(left), 0, len(left)
        while bad - good > 1:
            middle = (good + bad) // 2
            broken = fault(module, coupling, {name: left[name] for name in names[:middle]}, inputs)
            good, bad, why = (middle, bad, why) if broken is None else (good, middle, broken)
        found[names[bad - 1]] = why
    return found


def fault(module: nn.Module, coupling: Coupling, masks: Masks, inputs: Sequence[Inputs]) -> str | None:
    """What is wrong with a cut, or None."""
    error, reason = difference(silenced(module, coupling, masks), cut(module, coupling, masks), inputs)
    return None if error <= TOLERANCE else reason or f"relative error {error:.1e}"


@torch.no_grad()
def difference(dense: nn.Module, small: nn.Module, inputs: Sequence[Inputs]) -> tuple[float, str | None]:
    """Max |small - dense| / max |dense| over all outputs; infinite, with a reason, if `small` fails.

    Memory that runs out is not its fault, and raises.
    """
    worst = 0.0
    for x in inputs:
        with evaluating(dense, small):
            truths = _outputs(dense, x)
            try:
                found = _outputs(small, x)
            except Exception as error:  # whatever the network's code makes of other widths
                if out_of_memory(error):
                    raise
                return float("inf"), one_line(error)
        if [t.shape for t in found] != [t.shape for t in truths]:
            return float("inf"), f"output shapes {_shapes(found)}, expected {_shapes(truths)}"
        for a, b in zip(found, truths, strict=True):
            scale = b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)
            relative = float((a - b).abs().max() / scale)
            if math.isnan(relative):
                return float("inf"), "NaN in the outputs"
            worst = max(worst, relative)
    return worst, None


def _outputs(module: nn.Module, x: Inputs) -> list[Tensor]:
    """Every floating-point tensor that the network returns."""
    leaves = tree_leaves(forward.run(module, x))
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors)
