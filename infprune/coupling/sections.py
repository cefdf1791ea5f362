"""Operations that take sections of a dimension: equal parts are tied, positions that stand in the code are frozen."""

from typing import Any

from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import argument, source
from infprune.coupling.propagation import Propagation
from infprune.coupling.structural import verbatim


def chunk(state: Propagation, node: Node) -> Any:
    """Equal parts stay equal: index `i` of every part is tied together."""
    labels, dim = state.value(node.args[0]), int(argument(node, "dim"))
    parts = verbatim(state, node)
    if state.varies(labels, dim):
        if len({p.shape for p in parts}) > 1:
            state.freeze(labels, f"unequal parts in {source(node)}")
        else:
            state.tie(labels, dim % labels.dim(), [len(parts), parts[0].shape[dim]], node)
    return parts


def glu(state: Propagation, node: Node) -> Tensor:
    """`a * sigmoid(b)` of the two halves of a dimension."""
    labels, dim = state.value(node.args[0]), int(argument(node, "dim"))
    half = labels.shape[dim] // 2
    if state.varies(labels, dim):
        state.tie(labels, dim % labels.dim(), [2, half], node)
    result: Tensor = labels.narrow(dim, 0, half)
    return result


def split(state: Propagation, node: Node) -> Any:
    """Parts of given sizes. Equal ones are tied; others stand, unless an attribute behind each size follows the cut."""
    labels, dim = state.value(node.args[0]), int(argument(node, "dim"))
    parts = list(verbatim(state, node))
    if not state.varies(labels, dim):
        return parts
    state.width(node, labels.shape[dim], labels, dim % labels.dim())  # code may hold the whole and divide it
    follow = [state.width(node, p.shape[dim], p, dim % p.dim()) for p in parts if state.varies(p, dim)]
    if len({p.shape for p in parts}) == 1:
        state.tie(labels, dim % labels.dim(), [len(parts), parts[0].shape[dim]], node)
    elif not all(follow):
        state.freeze(labels, f"fixed channel positions in {source(node)}")
    return parts


def slices(state: Propagation, node: Node) -> Any:
    """A section `[start, end)`. If all sections taken of this value are equal parts of it, they are tied.

    Otherwise the bounds stand in the code: the channels that they count, from the front or the back, must stay.
    """
    labels, dim = state.value(node.args[0]), int(argument(node, "dim"))
    result: Tensor = verbatim(state, node)
    if result.shape == labels.shape or not state.varies(labels, dim):
        return result
    at, size, step = dim % labels.dim(), labels.shape[dim], int(argument(node, "step", 1))
    if step == 1 and _equal_parts(node, size):
        state.width(node, result.shape[dim], result, at)
        state.tie(labels, at, [size // result.shape[dim], result.shape[dim]], node)
        return result
    front, back = ([], []) if step != 1 else _counted(node, size)
    parts = [*(labels.narrow(dim, 0, n) for n in front), *(labels.narrow(dim, size - n, n) for n in back)]
    for part in parts if step == 1 else [labels]:
        if step != 1 or not (state.varies(part, dim) and state.width(node, part.shape[dim], part, at)):
            state.freeze(part, f"fixed channel positions in {source(node)}")
    return result


def _counted(node: Node, size: int) -> tuple[list[int], list[int]]:
    """How many positions each bound of a section counts: those from the front, and those from the back."""
    start, length, end = argument(node, "start", 0) or 0, argument(node, "length"), argument(node, "end")
    bounds = [b for b in (start, end if length is None else start + length) if b is not None and -size < b < size]
    return [b for b in bounds if b > 0], [-b for b in bounds if b < 0]


def _equal_parts(node: Node, size: int) -> bool:
    """Whether the sections that this and its sibling operations take cover the dimension with parts of one width."""
    siblings = [n for n in node.args[0].users if n.target is node.target and n.args[1:2] == node.args[1:2]]  # type: ignore[union-attr]
    bounds = sorted({_bounds(n, size) for n in siblings})
    width = bounds[0][1] - bounds[0][0]
    return bounds == [(i, i + width) for i in range(0, size, width)] and size % width == 0


def _bounds(node: Node, size: int) -> tuple[int, int]:
    start, length = argument(node, "start", 0), argument(node, "length")
    start = min(max(start + size if start is not None and start < 0 else start or 0, 0), size)
    if length is not None:
        return start, start + length
    end = argument(node, "end")
    end = size if end is None else end + size if end < 0 else min(end, size)
    return start, max(start, end)


def select(state: Propagation, node: Node) -> Any:
    """Single indices of a dimension, which is gone afterwards: what stands there cannot move."""
    labels, dim = state.value(node.args[0]), int(argument(node, "dim"))
    if state.varies(labels, dim):
        state.freeze(labels, f"fixed channel positions in {source(node)}")
    return verbatim(state, node)
