"""From labels to channel layers."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from infprune import forward
from infprune.coupling import RULES
from infprune.coupling.graph import Graph, trace
from infprune.coupling.groups import ChannelLayer, Computation, CoupledSlice, Coupling, Role, TensorSpec
from infprune.coupling.labels import FIXED
from infprune.coupling.pointwise import pointwise
from infprune.coupling.propagation import Options, Propagation, by_name
from infprune.forward import Inputs
from infprune.modes import evaluating


def couple(module: nn.Module, example: Inputs, graph: Graph | None = None, options: Options | None = None) -> Coupling:
    """Find which slices of which tensors live or die together, by running the network on labels.

    The graph comes from `torch.export`; structural operations move the labels, pointwise ones merge them, and an
    operation without a rule freezes every channel that reaches it (`ChannelLayer.frozen` says which and where).

    Args:
        module: the network; it is left as it was.
        example: one input batch of at least two samples.
        graph: the network's graph, if it was traced before.
        options: which attributes follow the cut, and whether heads are cut whole.

    Raises:
        ArchitectureError: the network cannot be exported.
    """
    graph = graph or trace(module, example)
    state = Propagation(graph, options or Options())
    state.run(by_name(RULES, pointwise))
    for name, elements in state.mixed:
        _settle(state, name, elements)
    computations = _owned(state, module, example)
    layers, names = _layers(state, {call.weight for call in computations if not call.owned})
    specs = _tensor_specs(module) | {
        key: TensorSpec(torch.Size([len(state.dims[key, 0])]), 0, parameter=False)
        for key, dim in state.dims
        if state.roles[key, dim] is Role.SIZE
    }
    return Coupling(
        layers,
        tuple(computations),
        specs,
        norms=frozenset(state.norms),
        candidates=_candidates(state, names),
        scaled=frozenset(state.scaled),
        fixed_macs=state.fixed_macs,
    )


def _owned(state: Propagation, module: nn.Module, example: Inputs) -> list[Computation]:
    """Tell weights that are used by calling their module from those that are not: hooks see only the former."""
    called = Counter[int]()
    with ExitStack() as stack, evaluating(module), torch.no_grad():
        for owner in module.modules():
            if isinstance(owner, nn.Linear | nn.modules.conv._ConvNd):  # noqa: SLF001 - base of all convolutions
                stack.enter_context(_counting(owner, called))
        forward.run(module, example)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    met = Counter(call.weight for call in state.computations)
    found = []
    for call in state.computations:
        grouped = call.transposed and call.groups > 1  # nothing here unfolds these
        owned = not grouped and called[id(tensors[call.weight])] == met[call.weight]
        found.append(replace(call, owned=owned))
    return found


@contextmanager
def _counting(owner: nn.Module, called: Counter[int]) -> Iterator[None]:
    handle = owner.register_forward_pre_hook(lambda m, _: called.update([id(m.weight)]))
    try:
        yield
    finally:
        handle.remove()


def _tensor_specs(module: nn.Module) -> dict[str, TensorSpec]:
    parameters = {name: TensorSpec(t.shape, t.itemsize, parameter=True) for name, t in module.named_parameters()}
    return parameters | {name: TensorSpec(t.shape, t.itemsize, parameter=False) for name, t in module.named_buffers()}


def _settle(state: Propagation, name: str, elements: Tensor) -> None:
    """Give a tensor that was read element by element the one dimension its channels run along, or freeze it."""
    along = _channel_dim(state.labels.find(elements))
    if along is None:
        state.labels.freeze(elements, f"{name} mixes channels and positions")
    else:
        rows = elements.movedim(along, 0).reshape(elements.shape[along], -1)
        state.labels.union(state.dim(name, along, len(rows), Role.THROUGH), rows[:, 0], name)
    for dim in range(elements.dim()):
        if dim != along and (name, dim) in state.dims:
            state.labels.freeze(state.dims[name, dim], f"{name} is also read element by element")


def _channel_dim(roots: Tensor) -> int | None:
    """The first dimension whose every index holds one label only."""
    for dim in range(roots.dim()):
        rows = roots.movedim(dim, 0).reshape(roots.shape[dim], -1)
        if len(rows) > 1 and bool((rows == rows[:, :1]).all()):
            return dim
    return None


def _layers(state: Propagation, foreign: Collection[str]) -> tuple[tuple[ChannelLayer, ...], dict[int, str]]:
    """Gather classes that touch the same dimensions into layers, in graph order of their first producer.

    `foreign`: weights that no hook sees.

    Also returns the layer's name of each class.
    """
    reasons, inexact = state.labels.reasons(), state.labels.roots(state.inexact)
    multiplied = state.labels.roots(state.multiplied)
    members = _members(state)
    bundles: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for root, places in members.items():
        if any(state.roles[key] is Role.PRODUCER for key in places):
            signature = tuple((key, len(found)) for key, found in places.items())
            bundles[signature, reasons.get(root), inexact.get(root), root in multiplied].append(root)
    taken: dict[str, int] = defaultdict(int)
    layers = []
    names: dict[int, str] = {}
    for (signature, frozen, norm, product), roots in bundles.items():
        slices = tuple(
            CoupledSlice(tensor, dim, state.roles[tensor, dim], torch.tensor([members[r][tensor, dim] for r in roots]))
            for (tensor, dim), _ in signature
        )
        name = next(s.tensor for s in slices if s.role is Role.PRODUCER).removesuffix(".weight")
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        unheard = frozenset(s.tensor for s in slices if s.role is Role.CONSUMER and s.tensor in foreign)
        layer = ChannelLayer(name, slices, frozen, norm, multiplied=product, foreign=unheard)
        layers.append(replace(layer, frozen=frozen or _obstacle(layer, foreign)))
        names |= dict.fromkeys(roots, name)
    return tuple(layers), names


def _obstacle(layer: ChannelLayer, foreign: Collection[str]) -> str | None:
    """Why a layer that no operation forbids cannot be cut all the same."""
    producers = layer.having(Role.PRODUCER)
    if not layer.having(Role.CONSUMER) and not layer.multiplied:
        return "nothing reads it"
    if layer.size == 1 and producers[0].index.shape[1] > 1:
        return "its channels are tied together: all would go at once"
    outside = [s.tensor for s in producers if s.tensor in foreign]
    if layer.gated and outside:
        return f"{outside[0]} is used outside a module of its own, and so is what reads it"
    return None


def _candidates(state: Propagation, names: Mapping[int, str]) -> dict[str, frozenset[str]]:
    """Which layers each attribute candidate concerns."""
    found: dict[str, set[str]] = defaultdict(set)
    for key, labels in state.candidates:
        roots = torch.unique(state.labels.find(labels)).tolist()
        found[key] |= {names[root] for root in roots if root in names}
    return {key: frozenset(layers) for key, layers in found.items()}


def _members(state: Propagation) -> dict[int, dict[tuple[str, int], list[int]]]:
    """For each class: the positions it holds in each tensor dimension."""
    members: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(dict)
    for key, labels in state.dims.items():
        for position, root in enumerate(state.labels.find(labels).tolist()):
            if root != FIXED:
                members[root].setdefault(key, []).append(position)
    return members
