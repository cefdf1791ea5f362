"""Operations that move values without changing them: executed verbatim on the labels."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from infprune.coupling.graph import argument, owner, source
from infprune.coupling.labels import FIXED
from infprune.coupling.propagation import EVERYWHERE, Propagation, fixed


def verbatim(state: Propagation, node: Node) -> Any:
    """Run the same operation on the labels."""
    args, kwargs = map_arg((node.args, node.kwargs), state.value)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def identity(state: Propagation, node: Node) -> Any:
    """The labels of the first argument."""
    return state.value(node.args[0])


def constant(state: Propagation, node: Node) -> Any:
    """New values of a shape that stands in the code."""
    del state
    return fixed(node.meta["val"])


def expand(state: Propagation, node: Node) -> Tensor:
    """Repetition along dimensions of size one; the widths that the code asks for are noted."""
    labels: Tensor = verbatim(state, node)
    _note_widths(state, node, argument(node, "size"), labels)
    return labels


def regrouped(state: Propagation, node: Node) -> Tensor:
    """A view whose split dimensions stay full grids: `(G, I)` ties index `i` of every group together.

    The module's code divides the width by a fixed number of groups, so what is cut must be cut in all of them. With
    `Options.heads`, a factor that equals an attribute named after heads is the one that is cut instead.
    """
    labels: Tensor = state.value(node.args[0])
    shape = node.meta["val"].shape
    for dim, factors in _splits(labels.shape, shape):
        if state.varies(labels, dim) and not factors:
            state.freeze(labels, f"regrouped across channels in {source(node)}")
        elif state.varies(labels, dim):
            heads = _heads(state, node, factors)
            state.tie(labels, dim, factors, node, -1 if heads is None else heads[1])
            if heads is not None:
                rows = labels.reshape(*labels.shape[:dim], *factors, *labels.shape[dim + 1 :])
                state.follow(heads[0], state.channels(rows, dim + heads[1], node))
        _note_products(state, node, labels, dim, factors)
    result = state.labels.find(labels).reshape(shape)
    asked = argument(node, "size") or argument(node, "shape")
    if asked is None and argument(node, "other") is not None:  # view_as(x, other)
        return result
    if asked is None:  # unflatten(x, dim, sizes)
        at = int(argument(node, "dim")) % labels.dim()
        asked = [*(-1,) * at, *argument(node, "sizes"), *(-1,) * (labels.dim() - at - 1)]
    _note_widths(state, node, asked, result)
    return result


def _note_products(state: Propagation, node: Node, labels: Tensor, dim: int, factors: list[int]) -> None:
    """Code may hold the product of the last factors, e.g. all heads of one of query, key and value."""
    for first in range(1, len(factors) - 1):
        width = math.prod(factors[first:])
        part = labels.narrow(dim, 0, width)
        if state.varies(part, dim):
            state.width(node, width, part, dim)


def _note_widths(state: Propagation, node: Node, sizes: Any, labels: Tensor) -> None:
    for dim, asked in enumerate(sizes):
        if isinstance(asked, int) and asked > 1 and state.varies(labels, dim):
            state.width(node, asked, labels, dim)


def _heads(state: Propagation, node: Node, factors: list[int]) -> tuple[str, int] | None:
    """The attribute that says how many heads there are, and which factor that is, if heads are cut whole."""
    if not {EVERYWHERE, owner(node)} & set(state.options.heads):
        return None
    for name, value in state.graph.attributes.get(owner(node), {}).items():
        if "head" in name and "dim" not in name and "size" not in name and value in factors[:-1]:
            last = max(i for i, factor in enumerate(factors[:-1]) if factor == value)  # (3, H, D) with three heads
            return f"{owner(node)}@{name}", last
    return None


def _splits(before: torch.Size, after: torch.Size) -> list[tuple[int, list[int]]]:
    """Dimensions of `before` that a reshape to `after` splits, with their factors; none if they cross a boundary."""
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
        ends = {math.prod(sizes[k:]) for k in range(len(sizes))}  # strides at which the new dimensions meet
        for at, dim in enumerate(dims):
            low = math.prod(before[d] for d in dims[at + 1 :])
            cuts = [low * before[dim], *sorted((e for e in ends if low < e < low * before[dim]), reverse=True), low]
            if len(cuts) > 2:
                whole = all(big % small == 0 for big, small in pairwise(cuts))
                found.append((dim, [big // small for big, small in pairwise(cuts)] if whole else []))
        i, j = i + 1, j + 1
    return found


def joined(state: Propagation, node: Node) -> Any:
    """`cat` and `stack`: along the dimensions that are not joined, the parts must stay alike."""
    parts, dim = [state.value(n) for n in node.args[0]], int(argument(node, "dim"))  # type: ignore[union-attr]
    stacked = "stack" in str(node.target)
    rows = [x if stacked else x.narrow(dim, 0, 1) for x in parts]
    if any(state.varies(x, d) for x in rows for d in range(x.dim())):
        for row in rows[1:]:
            state.labels.union(rows[0], row, f"joined with a constant or an input in {source(node)}")
    return verbatim(state, node)


def pixel_shuffle(state: Propagation, node: Node) -> Tensor:
    """`(C r^2, H, W) -> (C, r H, r W)`: the r^2 inputs of an output channel stay together."""
    labels, r = state.value(node.args[0]), int(argument(node, "upscale_factor"))
    if r > 1 and state.varies(labels, -3):
        state.tie(labels, labels.dim() - 3, [labels.shape[-3] // r**2, r**2], node, keep=0)
    return torch.pixel_shuffle(labels, r)


def channel_shuffle(state: Propagation, node: Node) -> Tensor:
    """`(G I) -> (I G)`: the same index in every group goes."""
    labels: Tensor = state.value(node.args[0])
    groups = int(argument(node, "groups"))
    if state.varies(labels, 1):
        state.tie(labels, 1, [groups, labels.shape[1] // groups], node)
    shape = labels.shape
    grid = labels.reshape(shape[0], groups, -1, *shape[2:])
    return grid.transpose(1, 2).reshape(shape)


def repeat(state: Propagation, node: Node) -> Any:
    """Copies side by side: fine along dimensions on which the channel does not depend."""
    labels, times = state.value(node.args[0]), argument(node, "repeats")
    new = len(times) - labels.dim()
    if any(n > 1 and state.varies(labels, d) for d, n in enumerate(times[new:])):
        state.freeze(labels, f"repeated over channels in {source(node)}")
    return verbatim(state, node)


def roll(state: Propagation, node: Node) -> Any:
    """Rotation by a constant: fine over positions, while channels would meet other channels after a cut."""
    labels, dims = state.value(node.args[0]), argument(node, "dims")
    if not dims:
        return state.unknown(node)
    if any(state.varies(labels, d) for d in dims):
        state.freeze(labels, f"fixed channel positions in {source(node)}")
    return verbatim(state, node)


def index(state: Propagation, node: Node) -> Any:
    """Rows picked by one constant index: a table of positions is merged along it, channels are frozen."""
    labels, indices = state.value(node.args[0]), list(argument(node, "indices"))
    at = [d for d, i in enumerate(indices) if i is not None]
    if len(at) != 1:
        return state.unknown(node)
    dim, shape = at[0], node.meta["val"].shape
    if state.tensor_name(node.args[0]) is not None:
        state.labels.union(labels.narrow(dim, 0, 1).expand_as(labels), labels, source(node))
    elif state.varies(labels, dim):
        state.freeze(labels, f"fixed channel positions in {source(node)}")
    picked = len(shape) - labels.dim() + 1  # dimensions of the index
    row = labels.narrow(dim, 0, 1)
    return row.reshape(*row.shape[:dim], *(1,) * picked, *row.shape[dim + 1 :]).expand(shape)


def pad(state: Propagation, node: Node) -> Tensor:
    """Constant padding: new positions of an old channel (spatial), or new channels that no cut can remove."""
    labels: Tensor = state.value(node.args[0])
    widths = node.args[1]
    assert isinstance(widths, list | tuple)
    for pair in range(len(widths) // 2):
        dim, before, after = labels.dim() - 1 - pair, int(widths[2 * pair]), int(widths[2 * pair + 1])  # type: ignore[arg-type]
        if before == after == 0:
            continue
        if before < 0 or after < 0 or labels.shape[dim] == 1 or state.varies(labels, dim):
            labels = torch.nn.functional.pad(labels, (0, 0) * (labels.dim() - 1 - dim) + (before, after), value=FIXED)
        else:
            sizes = list(labels.shape)
            sizes[dim] += before + after
            labels = labels.narrow(dim, 0, 1).expand(sizes)
    return labels
