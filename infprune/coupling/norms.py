"""Normalisation: per channel (exact), or with statistics over the channels (inexact once some are gone)."""

from typing import Any

from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import argument, owner, source
from infprune.coupling.groups import Role
from infprune.coupling.propagation import Propagation


def batch_norm(state: Propagation, node: Node) -> Tensor:
    """y[:, c] = gamma_c (x[:, c] - mu_c) / sigma_c + beta_c: an entry of each tensor per channel. Or instance norm."""
    x: Tensor = state.value(node.args[0])
    channels = state.channels(x, 1, node)
    for argument_ in node.args[1:5]:
        _per_channel(state, node, argument_, channels)
    if not any(map(state.tensor_name, node.args[1:5])) and state.graph.attributes.get(owner(node), {}).get(
        "num_features"
    ) == len(channels):
        state.follow(f"{owner(node)}@num_features", channels)  # nothing else tells the module
    return x


def layer_norm(state: Propagation, node: Node) -> Tensor:
    """Statistics over the trailing dimensions, e.g. of all channels at a position. Also the RMS norm."""
    x: Tensor = state.value(node.args[0])
    dims = range(x.dim() - len(argument(node, "normalized_shape")), x.dim())
    along = [d for d in dims if state.varies(x, d)]
    if along:
        channels = state.channels(x, along[0], node)
        _over_channels(state, node, channels, whole=len(dims) == 1)
    return x


def group_norm(state: Propagation, node: Node) -> Tensor:
    """Statistics over each group of channels: groups stay whole, which is exact; a single group is a layer norm."""
    x: Tensor = state.value(node.args[0])
    groups = int(argument(node, "num_groups"))
    channels = state.channels(x, 1, node)
    if groups == 1:
        _over_channels(state, node, channels, whole=True)
        return x
    state.tie(x, 1, [groups, len(channels) // groups], node, keep=0)
    if argument(node, "weight") is None:
        state.freeze(channels, f"no weights that follow the channels in {source(node)}")
    for name in ("weight", "bias"):
        _per_channel(state, node, argument(node, name), channels)
    return x


def _over_channels(state: Propagation, node: Node, channels: Tensor, *, whole: bool) -> None:
    """Mark channels whose removal changes the statistics of the others."""
    name = state.tensor_name(argument(node, "weight"))
    if name is None or not whole:
        state.freeze(channels, f"normalised over channels without weights of their own in {source(node)}")
        return
    state.norms.add(name)
    state.inexact.append((channels, f"statistics of {name.rpartition('.')[0]} run over the channels"))
    for key in ("weight", "bias"):
        _per_channel(state, node, argument(node, key), channels)


def _per_channel(state: Propagation, node: Node, tensor: Any, channels: Tensor) -> None:
    name = state.tensor_name(tensor)
    if name is not None:
        state.labels.union(state.dim(name, 0, len(channels), Role.THROUGH), channels, f"normalises {name}")
    else:
        state.freeze_computed(node, tensor, channels)


def softmax(state: Propagation, node: Node) -> Any:
    """Normalised or accumulated along one dimension: over positions only, for over channels each depends on all."""
    x, dim = state.value(node.args[0]), argument(node, "dim")
    if state.varies(x, int(dim)):
        state.freeze(x, f"depends on all channels in {source(node)}")
    return x
