"""Try the cuts before any score is paid for: what the module's own code does not follow is frozen, with its reason."""

import copy
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from infprune import forward
from infprune.coupling.couple import couple
from infprune.coupling.graph import trace
from infprune.coupling.groups import Coupling
from infprune.coupling.propagation import Options
from infprune.forward import Inputs
from infprune.imports import one_line
from infprune.modes import evaluating
from infprune.proof import blame, fault
from infprune.surgery import Masks, cut

SHARE = 3  # a trial removes every third channel
SECONDS = 300.0


def settle(module: nn.Module, example: Inputs, *, heads: bool = False, seconds: float = SECONDS) -> Coupling:
    """Couple a network and keep as prunable only what its code can live without.

    The graph does not tell a width that the code computes from one it reads from an attribute or holds as a literal.
    So every third channel of all layers is cut and the result compared with the silenced network. Where that fails,
    the layers at fault are found one by one on shapes alone (meta tensors, no arithmetic); integer attributes of the
    modules at fault that equal the width follow the cut, where that helps; what still fails is frozen.

    Args:
        module: the network; it is left as it was.
        example: one input batch of at least two samples.
        heads: cut attention heads whole instead of the same index in every head.
        seconds: time for the search; layers not reached by then are frozen, which their reason says.

    Raises:
        ArchitectureError: the network cannot be exported.
    """
    end = time.monotonic() + seconds
    graph = trace(module, example)

    def attempt(follow: frozenset[str], suspects: Collection[str] | None = None) -> tuple[Coupling, dict[str, str]]:
        coupling = couple(module, example, graph, Options(follow, heads))
        return coupling, _failing(module, coupling, example, suspects, end)

    attempts = [attempt(frozenset())]
    coupling, failing = attempts[0]
    suspects = {*failing, *(layer.name for layer in coupling.layers if layer.frozen)}
    wanted = _touching(coupling, suspects)
    if wanted:
        attempts.append(attempt(wanted, suspects))
        unwanted = _touching(*attempts[1])
        if unwanted and unwanted != wanted:
            attempts.append(attempt(wanted - unwanted, suspects))
    return max((_frozen(*found) for found in attempts), key=_width)


def _touching(coupling: Coupling, layers: Iterable[str]) -> frozenset[str]:
    """The attribute candidates that concern any of the layers."""
    names = set(layers)
    return frozenset(key for key, concerned in coupling.candidates.items() if concerned & names)


def _frozen(coupling: Coupling, failing: Mapping[str, str]) -> Coupling:
    layers = tuple(
        replace(layer, frozen=f"the cut network fails: {failing[layer.name]}") if layer.name in failing else layer
        for layer in coupling.layers
    )
    return replace(coupling, layers=layers)


def _width(coupling: Coupling) -> int:
    return sum(layer.size for layer in coupling.prunable)


def _failing(
    module: nn.Module, coupling: Coupling, example: Inputs, suspects: Collection[str] | None, end: float
) -> dict[str, str]:
    """Layers without which the trial cut holds, each with what its cut breaks; the suspects (None: all) come first."""
    masks = {layer.name: _every_third(layer.size) for layer in coupling.prunable if layer.size > 1}
    if not masks or fault(module, coupling, masks, [example]) is None:
        return {}
    tried = {name: mask for name, mask in masks.items() if suspects is None or name in suspects}
    failing = _failing_shapes(module, coupling, tried, example, end)
    left = {name: mask for name, mask in masks.items() if name not in failing}
    return failing | blame(module, coupling, left, [example], end)


def _every_third(size: int) -> Tensor:
    return torch.arange(size) % SHARE != SHARE - 1 if size >= SHARE else torch.arange(size) < 1


def _failing_shapes(module: nn.Module, coupling: Coupling, masks: Masks, example: Inputs, end: float) -> dict[str, str]:
    """Layers whose cut alone stops the forward pass: on meta tensors, or on real ones if the code needs values."""
    shell, x = copy.deepcopy(module).to("meta"), forward.move(example, "meta")
    if _stops(shell, x) is not None:
        shell, x = module, example
    failing = {}
    for name, mask in masks.items():
        if time.monotonic() > end:
            break
        why = _stops(cut(shell, coupling, {name: mask}), x)
        if why is not None:
            failing[name] = why
    return failing


@torch.no_grad()
def _stops(network: nn.Module, x: Inputs) -> str | None:
    try:
        with evaluating(network):
            forward.run(network, x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the network's code raises
        return one_line(error)
    return None
