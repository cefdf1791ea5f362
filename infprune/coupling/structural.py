"""Operations that move values without changing them: executed verbatim on the labels."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from infprune.coupling.graph import source
from infprune.coupling.labels import FIXED, compact, varies
from infprune.coupling.propagation import Propagation


def verbatim(state: Propagation, node: Node) -> Any:
    """Run the same operation on the labels."""
    args, kwargs = map_arg((node.args, node.kwargs), state.value)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def identity(state: Propagation, node: Node) -> Any:
    """The labels of the first argument."""
    return state.value(node.args[0])


def regrouped(state: Propagation, node: Node) -> Tensor:
    """A view whose split dimensions stay full grids: `(G * I) -> (G, I)` ties index `i` of every group together.

    The module's code divides the width by a fixed number of groups, so what is cut must be cut in all of them.
    """
    labels: Tensor = state.value(node.args[0])
    shape = node.meta["val"].shape
    for dim, factors in _splits(labels.shape, shape):
        if varies(labels, dim):
            grid = state.channels(labels, dim, node).reshape(*factors).flatten(0, -2)
            state.labels.union(grid[:1].expand_as(grid), grid, source(node))
    return labels.reshape(shape)


def _splits(before: torch.Size, after: torch.Size) -> list[tuple[int, list[int]]]:
    """Dimensions of `before` that a reshape to `after` splits, with their factors larger than one."""
    found, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        dims, sizes, have, want = [i], [after[j]], before[i], after[j]
        while have != want:
            if have < want:
                i += 1
                dims.append(i)
                have *= before[i]
            else:
                j += 1
                sizes.append(after[j])
                want *= after[j]
        factors, long = [s for s in sizes if s > 1], [d for d in dims if before[d] > 1]
        if len(long) == 1 and len(factors) > 1:
            found.append((long[0], factors))
        i, j = i + 1, j + 1
    return found


def chunk(state: Propagation, node: Node) -> Any:
    """Equal parts stay equal: index `i` of every part is tied together."""
    labels, dim = state.value(node.args[0]), _argument(node, 2, "dim", 0)
    parts = verbatim(state, node)
    if varies(labels, dim):
        if len({p.shape for p in parts}) > 1:
            state.freeze(labels, f"unequal parts in {source(node)}")
            return parts
        for part in parts[1:]:
            state.labels.union(compact(parts[0]).expand_as(compact(part)), compact(part), source(node))
    return parts


def cut_at_constants(state: Propagation, node: Node) -> Any:
    """Slice, select or split at positions that stand in the code: removing channels would shift them."""
    labels = state.value(node.args[0])
    result = verbatim(state, node)
    dim = _argument(node, 2 if "split" in str(node.target) else 1, "dim", 0)
    same = isinstance(result, Tensor) and result.shape == labels.shape
    if not same and varies(labels, dim):
        state.freeze(labels, f"fixed channel positions in {source(node)}")
    return result


def pad(state: Propagation, node: Node) -> Tensor:
    """Constant padding: new positions of an old channel (spatial), or new channels that no cut can remove."""
    labels: Tensor = state.value(node.args[0])
    widths = node.args[1]
    assert isinstance(widths, list | tuple)
    for pair in range(len(widths) // 2):
        dim, before, after = labels.dim() - 1 - pair, int(widths[2 * pair]), int(widths[2 * pair + 1])  # type: ignore[arg-type]
        if before == after == 0:
            continue
        if before < 0 or after < 0 or labels.shape[dim] == 1 or varies(labels, dim):
            labels = torch.nn.functional.pad(labels, (0, 0) * (labels.dim() - 1 - dim) + (before, after), value=FIXED)
        else:
            sizes = list(labels.shape)
            sizes[dim] += before + after
            labels = labels.narrow(dim, 0, 1).expand(sizes)
    return labels


def _argument(node: Node, position: int, name: str, default: int) -> int:
    value = node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
    assert isinstance(value, int)
    return value
