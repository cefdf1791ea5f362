"""Try the cuts before any score is paid for: what the module's own code does not follow is frozen, with its reason."""

import copy
import time
import traceback
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infprune import forward
from infprune.coupling.couple import couple
from infprune.coupling.graph import trace
from infprune.coupling.groups import Coupling
from infprune.coupling.propagation import EVERYWHERE, Options
from infprune.errors import Stopped, out_of_memory
from infprune.forward import Inputs
from infprune.imports import one_line
from infprune.modes import evaluating
from infprune.progress import Bar, Progress, Silent, told
from infprune.proof import blame, fault
from infprune.surgery import Masks, cut

SHARE = 3  # a trial removes about every third channel
SECONDS = 300.0
ATTEMPTS = 5  # couplings: as is, with attributes, without those that do not help...
LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parent)  # whose lines say nothing about a network
NETWORKS = Path(__file__).parent / "models"
UNTRIED = "not tried"  # begins the reason of a layer that the search did not reach
POSITIONS = "fixed channel positions"  # the reason of a freeze that an attribute may lift


def settle(
    module: nn.Module,
    example: Inputs,
    *,
    heads: bool = False,
    seconds: float = SECONDS,
    progress: Progress = Silent(),  # noqa: B008 - it holds nothing
) -> Coupling:
    """Couple a network and keep as prunable only what its code can live without.

    The graph does not tell a width that the code computes from one it reads from an attribute or holds as a literal.
    So one channel of every layer, and then about a third of them, a different number in each layer, are cut, and the
    result is compared with the silenced network. Where that fails, the layers at fault are found one by one on shapes
    alone (meta tensors, no arithmetic), the others by bisection; integer attributes of the modules at fault that equal
    the width follow the cut, where that helps, and heads are cut whole where the same index of every head cannot be;
    what still fails is frozen.

    Args:
        module: the network; it is left as it was.
        example: one input batch of at least two samples.
        heads: cut attention heads whole instead of the same index in every head.
        seconds: time for the search; layers not reached by then are frozen, which their reason says.
        progress: shows the search layer by layer.

    Raises:
        ArchitectureError: the network cannot be exported.
        Stopped: before anything was coupled; later, what was not tried is frozen.
    """
    end = time.monotonic() + seconds
    graph = trace(module, example)

    attempts: list[tuple[Coupling, dict[str, str]]] = []

    def attempt(options: Options, suspects: Collection[str] | None) -> tuple[Coupling, dict[str, str]]:
        coupling = couple(module, example, graph, options)
        attempts.append((coupling, dict.fromkeys((layer.name for layer in coupling.prunable), UNTRIED)))  # if stopped
        attempts[-1] = coupling, _failing(module, coupling, example, suspects, end, progress)
        return attempts[-1]

    try:
        options, suspects, refused = Options(heads=frozenset({EVERYWHERE} if heads else ())), None, frozenset[str]()
        for _ in range(ATTEMPTS):
            coupling, failing = attempt(options, suspects)
            suspects = {layer.name for layer in coupling.layers if layer.frozen} | set(failing)
            positions = {layer.name for layer in coupling.layers if POSITIONS in (layer.frozen or "")}
            wanted = _touching(coupling, positions | set(failing)) - refused
            if wanted <= options.follow:  # what follows already did not help
                refused |= wanted
                wanted = frozenset()
            better = Options((options.follow | wanted) - refused, options.heads | coupling.scaled)
            if better == options:
                break
            options = better
    except Stopped:
        if not attempts:
            raise
    return max((_frozen(*found) for found in attempts), key=_width)


def _touching(coupling: Coupling, layers: Iterable[str]) -> frozenset[str]:
    """The attribute candidates that concern any of the layers."""
    names = set(layers)
    return frozenset(key for key, concerned in coupling.candidates.items() if concerned & names)


def _frozen(coupling: Coupling, failing: Mapping[str, str]) -> Coupling:
    def reason(layer: str) -> str:
        why = failing[layer]
        return why if why.startswith(UNTRIED) else f"the cut network fails: {why}"

    layers = (replace(x, frozen=reason(x.name)) if x.name in failing else x for x in coupling.layers)
    return replace(coupling, layers=tuple(layers))


def _width(coupling: Coupling) -> int:
    return sum(layer.size for layer in coupling.prunable)


def _failing(
    module: nn.Module,
    coupling: Coupling,
    example: Inputs,
    suspects: Collection[str] | None,
    end: float,
    progress: Progress,
) -> dict[str, str]:
    """Layers without which the trial cut holds, each with what its cut breaks; the suspects (None: all) come first."""
    failing: dict[str, str] = {}
    able = [layer for layer in coupling.prunable if layer.size > 1]
    for lost in (_one, _about_a_third):
        masks = {x.name: lost(x.size, i) for i, x in enumerate(able) if x.name not in failing}
        if not masks or fault(module, coupling, masks, [example]) is None:
            continue
        tried = {name: mask for name, mask in masks.items() if suspects is None or name in suspects}
        with progress.bar("trial cuts", len(tried)) as bar:
            failing |= _failing_shapes(module, coupling, tried, example, end, bar)
        left = {name: mask for name, mask in masks.items() if name not in failing}
        failing |= blame(module, coupling, left, [example], end)
    masks = {x.name: _one(x.size, i) for i, x in enumerate(able) if x.name not in failing}
    if _tied(module, coupling, masks, example):
        with progress.bar("trial cuts", len(masks)) as bar:
            failing |= _failing_shapes(module, coupling, masks, example, end, bar)
    return failing


def _tied(module: nn.Module, coupling: Coupling, masks: Masks, example: Inputs) -> bool:
    """Whether some layers only pass because others lose as much: of any two, some trial here cuts only one."""
    shell, x = _shell_of(module, example)
    for bit in range(len(masks).bit_length()):
        some = {name: mask for i, (name, mask) in enumerate(masks.items(), 1) if i >> bit & 1}
        if _stops(cut(shell, coupling, some), x) is not None:
            return True
    return False


def _about_a_third(size: int, number: int) -> Tensor:
    """Keep the rest. Layers of one width lose different numbers, so that what only has to be equally wide shows."""
    lost = max(1, min(size - 1, size // SHARE + number % SHARE))
    mask = torch.ones(size, dtype=torch.bool)
    mask[torch.linspace(0, size - 1, lost + 1)[1:].round().long()] = False
    return mask


def _one(size: int, number: int) -> Tensor:
    """Keep all but one: no width is then a multiple of what it was, by which code may divide."""
    return torch.arange(size) != number % size


def _failing_shapes(
    module: nn.Module, coupling: Coupling, masks: Masks, example: Inputs, end: float, bar: Bar
) -> dict[str, str]:
    """Layers whose cut alone stops the forward pass: on meta tensors, or on real ones if the code needs values."""
    shell, x = _shell_of(module, example)
    failing = {}
    for name, mask in told(masks.items(), bar):
        if time.monotonic() > end:
            failing[name] = f"{UNTRIED} for lack of time"
            continue
        why = _stops(cut(shell, coupling, {name: mask}), x)
        if why is not None:
            failing[name] = why
    return failing


def _shell_of(module: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
    """The network and its input without data; as they are, if the code needs values."""
    shell, x = _shell(module), forward.move(example, "meta")
    return (shell, x) if _stops(shell, x) is None else (module, example)


def _shell(module: nn.Module) -> nn.Module:
    """A copy without data, tied tensors tied."""
    memo: dict[int, Any] = {id(t): t.detach().to("meta") for t in module.buffers()}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)


@torch.no_grad()
def _stops(network: nn.Module, x: Inputs) -> str | None:
    try:
        with evaluating(network):
            forward.run(network, x)
    except Exception as error:
        if out_of_memory(error):
            raise
        return one_line(error) + _where(error)
    return None


def _where(error: Exception) -> str:
    """The network's line that failed, in the words of the coupling's reasons."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if not any(map(file.is_relative_to, LIBRARIES)) or file.is_relative_to(NETWORKS):
            return f" at {file.name}:{frame.lineno} `{frame.line}`"
    return ""
