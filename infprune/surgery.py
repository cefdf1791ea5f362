"""Model + plan -> smaller model. The given model is never touched."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from infprune.coupling.groups import Coupling, Role
from infprune.errors import ArchitectureError

ATTRIBUTE = "@"  # in a name: `module@attribute`, an integer of the module
Masks = Mapping[str, Tensor]  # layer name -> bool (C,), True where the channel stays
Kept = dict[str, dict[int, Tensor]]  # tensor name -> dimension -> positions that stay, ascending


def cut(module: nn.Module, coupling: Coupling, masks: Masks) -> nn.Module:
    """Copy `module` without the channels that `masks` drops.

    Args:
        module: the dense network.
        coupling: its channel layers.
        masks: for each layer to cut, a bool tensor of shape `(C,)`; True keeps the channel.
    """
    return resized(module, kept_positions(coupling, masks))


def kept_positions(coupling: Coupling, masks: Masks) -> Kept:
    """List the positions that stay, for every tensor dimension that loses some."""
    stays: dict[tuple[str, int], Tensor] = {}
    for layer in coupling.layers:
        mask = masks.get(layer.name)
        if mask is None or bool(mask.all()):
            continue
        for s in layer.slices:
            full = torch.ones(coupling.tensors[s.tensor].shape[s.dim], dtype=torch.bool)
            stays.setdefault((s.tensor, s.dim), full)[s.index[~mask].reshape(-1)] = False
    kept: Kept = {}
    for (name, dim), flags in sorted(stays.items()):
        kept.setdefault(name, {})[dim] = flags.nonzero()[:, 0]
    return kept


def composed(first: Kept, then: Kept) -> Kept:
    """What stays, in positions of the original network, after a cut of a network that `first` has made smaller."""
    kept = {name: dict(dims) for name, dims in first.items()}
    for name, dims in then.items():
        for dim, positions in dims.items():
            before = kept.setdefault(name, {}).get(dim)
            kept[name][dim] = positions if before is None else before[positions]
    return kept


def resized(module: nn.Module, kept: Kept) -> nn.Module:
    """Copy `module` keeping only the given positions of its named tensors; module attributes follow.

    Tied tensors stay tied; `requires_grad`, dtype, device, memory format and training mode stay as they are.

    Raises:
        ArchitectureError: a name, dimension or position does not exist in the module.
    """
    small = copy.deepcopy(module)
    replaced: dict[int, Tensor] = {}
    tensors = dict(_named_tensors(small))
    for name, dims in kept.items():
        if ATTRIBUTE in name:
            _resize_attribute(small, name, len(dims.get(0, ())))
            continue
        if name not in tensors:
            raise ArchitectureError(f"cannot cut {name}: the network has no tensor of that name")
        replaced[id(tensors[name])] = _sliced(name, tensors[name], dims)
    for owner in small.modules():
        for slots in (owner._parameters, owner._buffers):  # noqa: SLF001 - the only way to keep tied tensors tied
            for attribute, tensor in slots.items():
                if tensor is not None and id(tensor) in replaced:
                    slots[attribute] = replaced[id(tensor)]  # type: ignore[assignment]
        for kind, refresh in _REFRESH.items():
            if isinstance(owner, kind):
                refresh(owner)
    return small


@dataclass(frozen=True)
class Silence:
    """What makes a full-size network ignore channels.

    `tensors`: new values by name, zero where a channel is read. `narrow`: for norms whose statistics run over channels,
    by the name of their weight, the channels that stay (bool).
    """

    tensors: Mapping[str, Tensor]
    narrow: Mapping[str, Tensor]


def silence(module: nn.Module, coupling: Coupling, masks: Masks) -> Silence:
    """Set the dropped channels to zero where they are read.

    Where no weight reads a channel (it is summed over in a product), its producers are zero. Norms whose statistics
    run over channels take them over those that stay: what surgery makes of them, which for these is not the dense norm.
    """
    tensors, changed = dict(_named_tensors(module)), dict[str, Tensor]()
    narrow: dict[str, Tensor] = {}
    for layer in coupling.layers:
        mask = masks.get(layer.name)
        if mask is None:
            continue
        for s in layer.slices:
            if s.role is Role.SIZE:
                continue
            tensor, gone = tensors[s.tensor], s.index[~mask].reshape(-1)
            if s.role is Role.CONSUMER or (layer.multiplied and isinstance(tensor, nn.Parameter)):
                new = changed.setdefault(s.tensor, tensor.detach().clone())
                new.index_fill_(s.dim, gone.to(tensor.device), 0)
            if s.tensor in coupling.norms:
                stays = narrow.setdefault(s.tensor, torch.ones(len(tensor), dtype=torch.bool))
                stays[gone] = False
    return Silence(changed, narrow)


def silenced(module: nn.Module, coupling: Coupling, masks: Masks) -> nn.Module:
    """Copy `module` at full size, with the dropped channels silenced (see `silence`)."""
    dense, what = copy.deepcopy(module), silence(module, coupling, masks)
    tensors = dict(_named_tensors(dense))
    with torch.no_grad():
        for name, new in what.tensors.items():
            tensors[name].copy_(new)
    narrow = {id(tensors[name]): stays for name, stays in what.narrow.items()}
    return _Narrowed(dense, narrow) if narrow else dense


@contextmanager
def silencing(module: nn.Module, what: Silence) -> Iterator[None]:
    """Silence channels of `module` itself for a while."""
    tensors = dict(_named_tensors(module))
    before = {name: tensors[name].detach().clone() for name in what.tensors}
    narrow = {id(tensors[name]): stays for name, stays in what.narrow.items()}
    try:
        with torch.no_grad():
            for name, new in what.tensors.items():
                tensors[name].copy_(new)
        with _NarrowNorms(narrow) if narrow else nullcontext():
            yield
    finally:
        with torch.no_grad():
            for name, old in before.items():
                tensors[name].copy_(old)


class _Narrowed(nn.Module):
    """A network whose layer norms look at some channels only."""

    def __init__(self, network: nn.Module, stays: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.network = network
        self._stays = stays

    def forward(self, *inputs: Any) -> Any:
        with _NarrowNorms(self._stays):
            return self.network(*inputs)


class _NarrowNorms(TorchFunctionMode):
    """Computes the statistics of named norms over the channels that stay; the others come out as zero."""

    def __init__(self, stays: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._stays = stays

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if function not in _NORMS:
            return function(*args, **(kwargs or {}))
        given = inspect.signature(function).bind(*args, **(kwargs or {})).arguments
        stays = self._stays.get(id(given.get("weight")))
        if stays is None:
            return function(**given)
        x, dim = given["input"], _NORMS[function]
        at = stays.nonzero()[:, 0].to(x.device)
        given["input"] = x.index_select(dim, at)
        if "normalized_shape" in given:
            given["normalized_shape"] = (len(at),)
        for name in ("weight", "bias"):
            if given.get(name) is not None:
                given[name] = given[name].index_select(0, at)
        return torch.zeros_like(x).index_copy(dim, at, function(**given))


_NORMS: dict[Any, int] = {F.layer_norm: -1, F.rms_norm: -1, F.group_norm: 1}  # and the dimension of the channels


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _sliced(name: str, tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    new = tensor.detach()
    for dim, positions in dims.items():
        inside = 0 <= dim < tensor.dim() and len(positions) > 0
        if not inside or int(positions.min()) < 0 or int(positions.max()) >= tensor.shape[dim]:
            raise ArchitectureError(f"cannot keep these positions of {name}: its shape is {tuple(tensor.shape)}")
        new = new.index_select(dim, positions.to(tensor.device))
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.dim() in formats and tensor.is_contiguous(memory_format=formats[tensor.dim()]):
        new = new.contiguous(memory_format=formats[tensor.dim()])
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _resize_attribute(small: nn.Module, name: str, size: int) -> None:
    """Set an integer of a module, or one in a tuple of integers (`normalized_shape[0]`), to a smaller one."""
    path, _, attribute = name.partition(ATTRIBUTE)
    word, _, at = attribute.removesuffix("]").partition("[")
    try:
        owner = small.get_submodule(path)
        old = vars(owner)[word]
        value = old[int(at)] if at else old
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        value = None
    if type(value) is not int or not 0 < size <= value:
        raise ArchitectureError(f"cannot set {name} to {size}: the network has no such larger integer")
    new = type(old)(size if i == int(at) else v for i, v in enumerate(old)) if at else size
    setattr(owner, word, new)


def _refresh_conv(conv: Any) -> None:
    depthwise = conv.groups == conv.in_channels and conv.groups > 1
    if conv.transposed:
        if depthwise and conv.weight.shape[1] == 1:
            conv.groups = conv.weight.shape[0]
        conv.in_channels, conv.out_channels = conv.weight.shape[0], conv.weight.shape[1] * conv.groups
        return
    if depthwise:
        conv.groups = conv.weight.shape[0] * conv.groups // conv.out_channels
    conv.out_channels, conv.in_channels = conv.weight.shape[0], conv.weight.shape[1] * conv.groups


def _refresh_linear(linear: Any) -> None:
    linear.out_features, linear.in_features = linear.weight.shape


def _refresh_norm(norm: Any) -> None:
    sized = norm.weight if norm.weight is not None else norm.running_mean
    if sized is not None:
        norm.num_features = len(sized)


def _refresh_layer_norm(norm: Any) -> None:
    if norm.weight is not None:
        norm.normalized_shape = tuple(norm.weight.shape)


def _refresh_group_norm(norm: Any) -> None:
    if norm.weight is not None:
        if norm.num_groups > 1:  # whole groups were cut
            norm.num_groups = norm.num_groups * len(norm.weight) // norm.num_channels
        norm.num_channels = len(norm.weight)


def _refresh_embedding(table: Any) -> None:
    table.embedding_dim = table.weight.shape[1]


_REFRESH: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.modules.conv._ConvNd: _refresh_conv,  # noqa: SLF001 - the common base of all convolutions
    nn.Linear: _refresh_linear,
    nn.modules.batchnorm._NormBase: _refresh_norm,  # noqa: SLF001 - the common base of batch norms
    nn.LayerNorm: _refresh_layer_norm,
    nn.RMSNorm: _refresh_layer_norm,
    nn.GroupNorm: _refresh_group_norm,
    nn.Embedding: _refresh_embedding,
}
