"""Operations that take one value from many: over positions of a channel, never over channels."""

from typing import Any

from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import argument, source
from infprune.coupling.propagation import Propagation, fixed


def pool(state: Propagation, node: Node) -> Any:
    """Pooling or resampling over the trailing dimensions: channels stay, positions of one channel are merged."""
    x: Tensor = state.value(node.args[0])
    meta = node.meta["val"]
    channels = state.channels(x, 1, node)
    results = [
        channels.reshape(1, -1, *(1,) * (m.dim() - 2)).expand(m.shape)
        for m in (meta if isinstance(meta, tuple | list) else [meta])
    ]
    return results if isinstance(meta, tuple | list) else results[0]


def reduce(state: Propagation, node: Node) -> Any:
    """Mean, maximum, norm... over dimensions along which the channel does not change."""
    x: Tensor = state.value(node.args[0])
    dims = argument(node, "dim")
    dims = list(range(x.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    keep = bool(argument(node, "keepdim", False))
    meta = node.meta["val"]
    if any(state.varies(x, d) for d in dims):
        state.freeze(x, f"reduced over channels in {source(node)}")
        return fixed(meta)
    for d in sorted((int(d) % x.dim() for d in dims), reverse=True):
        x = x.narrow(d, 0, 1) if keep else x.select(d, 0)
    return [x] * len(meta) if isinstance(meta, tuple | list) else x
