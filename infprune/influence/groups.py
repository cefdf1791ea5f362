"""Groups of parameters: random, layers, channels, features, named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from infprune.coupling.groups import ChannelLayer, Role
from infprune.curvature.space import ParameterSpace
from infprune.errors import ArchitectureError, ConfigError
from infprune.forward import Inputs, run, tensors


@dataclass(frozen=True)
class Group:
    """Parameters that go together: a name, and their positions in theta, int64 `(k,)`, ascending."""

    name: str
    positions: Tensor


def random_groups(size: int, share: float, count: int, seed: int) -> list[Group]:
    """`count` random sets of round(share * size) of `size` parameters, at least one; share 0: single parameters.

    Single parameters are drawn without replacement, so there are at most `size` of them.
    """
    generator = torch.Generator().manual_seed(seed)
    if share == 0:
        order = torch.randperm(size, generator=generator)[:count]
        return [Group(f"parameter {int(p)}", p[None]) for p in order]
    k = max(1, round(share * size))
    drawn = [torch.randperm(size, generator=generator)[:k].sort().values for _ in range(count)]
    return [Group(f"{share:.0%} #{i}", S) for i, S in enumerate(drawn)]


def layer_groups(space: ParameterSpace, module: nn.Module) -> list[Group]:
    """The parameters that one module itself owns, for each module that owns some (MU section 5.2), in its order."""
    own = {id(p): name for name, p in module.named_parameters()}
    found, seen = [], set[str]()
    for name, m in module.named_modules():
        names = [own[id(p)] for p in m.parameters(recurse=False)]
        names = [n for n in names if n in space.names and n not in seen]
        seen |= set(names)
        if names:
            found.append(Group(name or "the network itself", torch.cat([space.at(n) for n in names]).sort().values))
    return found


def channel_groups(space: ParameterSpace, layer: ChannelLayer) -> list[Group]:
    """What reads each channel of a layer: the consumers' slices, one group per channel.

    Raises:
        ArchitectureError: no weight of the space reads them.
    """
    readers = [s for s in layer.having(Role.CONSUMER) if s.tensor in space.names]
    if not readers:
        raise ArchitectureError(f"{layer.name}: no parameter that is looked at reads its channels")
    return [
        Group(
            f"{layer.name}[{c}]",
            torch.unique(torch.cat([space.at(s.tensor, s.dim, s.index[c]) for s in readers])),
        )
        for c in range(layer.size)
    ]


@dataclass(frozen=True)
class FirstLayer:
    """A weight that reads the network's inputs directly: `dim` runs over `shape`, the input features."""

    weight: str
    dim: int
    shape: tuple[int, ...]


@torch.no_grad()
def first_layer(module: nn.Module, x: Inputs) -> FirstLayer:
    """Find the linear or convolution weight whose input is the network's, up to a reshape.

    A linear layer reads every entry of a sample as a feature of its own; a convolution reads channels.

    Raises:
        ArchitectureError: there is none, or more than one.
    """
    given = tensors(x)[0]
    names = {id(p): name for name, p in module.named_parameters()}
    found: dict[int, FirstLayer | None] = {}

    def watch(m: Any, args: tuple[Any, ...]) -> None:
        a = args[0]
        if a.numel() != given.numel() or not torch.equal(a.flatten(1), given.flatten(1)):
            return
        name, reader = names.get(id(m.weight)), None
        if name is not None and isinstance(m, nn.Linear) and a.dim() == 2:
            reader = FirstLayer(name, 1, tuple(given.shape[1:]))
        elif name is not None and not isinstance(m, nn.Linear) and m.groups == 1:
            reader = FirstLayer(name, 0 if m.transposed else 1, (m.in_channels,))
        found[id(m.weight)] = reader

    kinds = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001 - base of convolutions
    hooks = [m.register_forward_pre_hook(watch) for m in module.modules() if isinstance(m, kinds)]
    try:
        run(module, x)
    finally:
        for hook in hooks:
            hook.remove()
    first = next(iter(found.values()), None)
    if len(found) != 1 or first is None:
        problem = "several weights read" if len(found) > 1 else "no linear or convolution layer reads"
        raise ArchitectureError(
            f"{problem} the network's inputs directly, so no slice of one weight belongs to a feature; "
            "use influence.space=gates, which gates the inputs themselves"
        )
    return first


def feature_groups(space: ParameterSpace, first: FirstLayer, names: Sequence[str] | None = None) -> list[Group]:
    """The first-layer weights that read each input feature (MU section 5.4)."""
    count = torch.Size(first.shape).numel()
    labels = names or [f"feature {i}" for i in range(count)]
    return [Group(labels[i], space.at(first.weight, first.dim, torch.tensor([i]))) for i in range(count)]


def named_groups(space: ParameterSpace, chosen: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Groups as a configuration names them: {name: {parameter: null | {dim: [indices]}}}.

    Raises:
        ConfigError: no such parameter, dimension or index.
    """
    found = []
    for name, slices in chosen.items():
        parts = [part for tensor, dims in slices.items() for part in _slices(space, name, tensor, dims)]
        if not parts:
            raise ConfigError(f"group {name}: expected at least one parameter, got none")
        found.append(Group(name, torch.unique(torch.cat(parts))))
    return found


def _slices(space: ParameterSpace, group: str, tensor: str, dims: Mapping[int, list[int]] | None) -> list[Tensor]:
    """Positions of the chosen slices of a tensor, or of all of it."""
    if tensor not in space.names:
        near = get_close_matches(tensor, space.names, 1)
        hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(space.names[:4])}, ..."
        raise ConfigError(f"group {group}: {tensor} is not among the {len(space.names)} parameters looked at; {hint}")
    if dims is None:
        return [space.at(tensor)]
    shape = space.shapes[space.names.index(tensor)]
    for dim, index in dims.items():
        if not (0 <= dim < len(shape) and index and all(0 <= i < shape[dim] for i in index)):
            raise ConfigError(
                f"group {group}: {tensor} has shape {tuple(shape)}, it holds no indices {index} along {dim}"
            )
    return [space.at(tensor, dim, torch.tensor(index)) for dim, index in dims.items()]
