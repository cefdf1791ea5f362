"""Elementwise operations: what is combined element by element must be cut together."""

from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import source
from infprune.coupling.labels import FIXED, compact
from infprune.coupling.propagation import Propagation


def pointwise(state: Propagation, node: Node) -> Tensor:
    """Union the labels of all tensor operands, broadcast included; numbers and one-element tensors are neutral."""
    shape = node.meta["val"].shape
    result: Tensor | None = None
    for argument in node.all_input_nodes:
        labels = state.value(argument)
        if not isinstance(labels, Tensor) or (labels.numel() == 1 and len(shape) > 0):
            continue
        result = aligned(labels, len(shape)) if result is None else merged(state, node, result, labels)
    return state.value(node.args[0]) if result is None else result.expand(shape)


def aligned(labels: Tensor, dims: int) -> Tensor:
    """Broadcasting puts missing dimensions in front."""
    return labels.reshape((1,) * (dims - labels.dim()) + tuple(labels.shape))


def merged(state: Propagation, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Union two operands. One that is broadcast along the other's channels is read by all of them: it is frozen."""
    b = aligned(b, a.dim())
    for x, y in ((a, b), (b, a)):
        if any(x.shape[d] == 1 < y.shape[d] and state.varies(y, d) for d in range(x.dim())):
            state.freeze(x, f"broadcast over channels in {source(node)}")
            return y
    shape = tuple(max(m, n) for m, n in zip(a.shape, b.shape, strict=True))
    a, b = compact(a), compact(b)
    small = tuple(max(m, n) for m, n in zip(a.shape, b.shape, strict=True))
    a, b = a.expand(small), b.expand(small)
    state.labels.union(a, b, f"added to a constant, a padding or an input in {source(node)}")
    return state.labels.reduced(a.where(a != FIXED, b)).expand(shape)
