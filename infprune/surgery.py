"""Model + plan -> smaller model. The given model is never touched."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from infprune.coupling.groups import Coupling, Role
from infprune.errors import ArchitectureError

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


def silenced(module: nn.Module, coupling: Coupling, masks: Masks) -> nn.Module:
    """Copy `module` at full size, with the dropped channels set to zero where their consumers read them."""
    dense = copy.deepcopy(module)
    tensors = dict(_named_tensors(dense))
    with torch.no_grad():
        for layer in coupling.layers:
            mask = masks.get(layer.name)
            if mask is None:
                continue
            for s in layer.having(Role.CONSUMER):
                tensor = tensors[s.tensor]
                tensor.index_fill_(s.dim, s.index[~mask].reshape(-1).to(tensor.device), 0)
    return dense


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


def _refresh_conv(conv: Any) -> None:
    depthwise = conv.groups == conv.in_channels and conv.groups > 1
    if depthwise:
        conv.groups = conv.weight.shape[0] * conv.groups // conv.out_channels
    conv.out_channels, conv.in_channels = conv.weight.shape[0], conv.weight.shape[1] * conv.groups


def _refresh_linear(linear: Any) -> None:
    linear.out_features, linear.in_features = linear.weight.shape


def _refresh_norm(norm: Any) -> None:
    sized = norm.weight if norm.weight is not None else norm.running_mean
    if sized is not None:
        norm.num_features = len(sized)


_REFRESH: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.modules.conv._ConvNd: _refresh_conv,  # noqa: SLF001 - the common base of all convolutions
    nn.Linear: _refresh_linear,
    nn.modules.batchnorm._NormBase: _refresh_norm,  # noqa: SLF001 - the common base of batch norms
}
