"""From labels to channel layers."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from infprune.coupling import RULES
from infprune.coupling.graph import trace
from infprune.coupling.groups import ChannelLayer, Computation, CoupledSlice, Coupling, Role, TensorSpec
from infprune.coupling.labels import FIXED
from infprune.coupling.pointwise import pointwise
from infprune.coupling.propagation import Propagation, by_name
from infprune.modes import evaluating

Signature = tuple[tuple[tuple[str, int], int], ...]  # ((tensor, dimension), positions per channel), ...


def couple(module: nn.Module, example: Tensor) -> Coupling:
    """Find which slices of which tensors live or die together, by running the network on labels.

    The graph comes from `torch.export`; structural operations move the labels, pointwise ones merge them, and an
    operation without a rule freezes every channel that reaches it (`ChannelLayer.frozen` says which and where).

    Args:
        module: the network; it is left as it was.
        example: one input batch of at least two samples.

    Raises:
        ArchitectureError: the network cannot be exported.
    """
    graph = trace(module, example)
    state = Propagation(graph)
    state.run(by_name(RULES, pointwise))
    for name, elements in state.mixed:
        _settle(state, name, elements)
    computations = _owned(state, module, example)
    return Coupling(_layers(state), tuple(computations), _tensor_specs(module))


def _owned(state: Propagation, module: nn.Module, example: Tensor) -> list[Computation]:
    """Tell weights that are used by calling their module from those that are not, and freeze the latter's channels.

    Only the former can be measured by hooks and resized by attributes.
    """
    called = Counter[int]()
    with ExitStack() as stack, evaluating(module), torch.no_grad():
        for owner in module.modules():
            if isinstance(owner, nn.Linear | nn.modules.conv._ConvNd):  # noqa: SLF001 - base of all convolutions
                stack.enter_context(_counting(owner, called))
        module(example)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    met = Counter(call.weight for call in state.computations)
    found = []
    for call in state.computations:
        owned = called[id(tensors[call.weight])] == met[call.weight]
        found.append(replace(call, owned=owned))
        for dim in (0, 1):
            if not owned and (call.weight, dim) in state.dims:
                state.labels.freeze(state.dims[call.weight, dim], f"{call.weight} is used outside a module of its own")
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


def _layers(state: Propagation) -> tuple[ChannelLayer, ...]:
    """Gather classes that touch the same dimensions into layers, in graph order of their first producer."""
    reasons = state.labels.reasons()
    members = _members(state)
    bundles: dict[tuple[Signature, str | None], list[int]] = defaultdict(list)
    for root, places in members.items():
        if any(state.roles[key] is Role.PRODUCER for key in places):
            signature = tuple((key, len(found)) for key, found in places.items())
            bundles[signature, reasons.get(root)].append(root)
    taken: dict[str, int] = defaultdict(int)
    layers = []
    for (signature, reason), roots in bundles.items():
        slices = tuple(
            CoupledSlice(*key, state.roles[key], torch.tensor([members[r][key] for r in roots])) for key, _ in signature
        )
        name = next(s.tensor for s in slices if s.role is Role.PRODUCER).rpartition(".")[0]
        if reason is None and all(s.role is not Role.CONSUMER for s in slices):
            reason = "nothing reads it"  # noqa: PLW2901 - the reason of this layer
        taken[name] += 1
        layers.append(ChannelLayer(name if taken[name] == 1 else f"{name}#{taken[name]}", slices, reason))
    return tuple(layers)


def _members(state: Propagation) -> dict[int, dict[tuple[str, int], list[int]]]:
    """For each class: the positions it holds in each tensor dimension."""
    members: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(dict)
    for key, labels in state.dims.items():
        for position, root in enumerate(state.labels.find(labels).tolist()):
            if root != FIXED:
                members[root].setdefault(key, []).append(position)
    return members
