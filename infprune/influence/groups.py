"""Groups of parameters: random, layers, channels, features, named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """Find the linear or convolution module whose input is the network's, up to a reshape.

    A linear layer reads every entry of a sample as a feature of its own; a convolution reads channels.

    Raises:
        ArchitectureError: there is none.
    """
    given = tensors(x)[0]
    found: list[FirstLayer] = []

    def watch(name: str) -> Any:
        def hook(m: nn.Module, args: tuple[Any, ...]) -> None:
            a = args[0]
            if found or a.numel() != given.numel() or not torch.equal(a.flatten(1), given.flatten(1)):
                return
            if isinstance(m, nn.Linear) and a.dim() == 2:
                found.append(FirstLayer(f"{name}.weight".removeprefix("."), 1, tuple(given.shape[1:])))
            elif isinstance(m, nn.modules.conv._ConvNd) and m.groups == 1:  # noqa: SLF001 - base of convolutions
                dim = 0 if m.transposed else 1
                found.append(FirstLayer(f"{name}.weight".removeprefix("."), dim, (m.in_channels,)))

        return hook

    kinds = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001 - as above
    hooks = [m.register_forward_pre_hook(watch(n)) for n, m in module.named_modules() if isinstance(m, kinds)]
    try:
        run(module, x)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ArchitectureError(
            "no linear or convolution layer reads the network's inputs directly, so no weights belong to one feature; "
            "use influence.space=gates, which gates the inputs themselves"
        )
    return found[0]


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
        parts = []
        for tensor, dims in slices.items():
            if dims is None:
                parts.append(space.at(tensor))
            for dim, index in (dims or {}).items():
                shape = space.shapes[space.names.index(tensor)] if tensor in space.names else None
                at = torch.tensor(index)
                if shape is not None and (dim >= len(shape) or bool(((at < 0) | (at >= shape[dim])).any())):
                    raise ConfigError(
                        f"group {name}: {tensor} has shape {tuple(shape)}, it holds no indices {index} along {dim}"
                    )
                parts.append(space.at(tensor, dim, at))
        if not parts:
            raise ConfigError(f"group {name}: expected at least one parameter, got none")
        found.append(Group(name, torch.unique(torch.cat(parts))))
    return found
