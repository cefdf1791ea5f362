"""Operations with weights that combine channels: one small rule each."""

import torch
from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import argument
from infprune.coupling.groups import Computation, Role
from infprune.coupling.propagation import Propagation

COMPUTED = "a weight that the code computes in"


def linear(state: Propagation, node: Node) -> Tensor:
    """y[..., o] = sum_i W[o, i] x[..., i] + b[o]."""
    weight = state.tensor_name(node.args[1])
    if weight is None:
        return _computed(state, node)
    x, shape = state.value(node.args[0]), node.meta["val"].shape
    rows, columns = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    inputs = state.channels(x, x.dim() - 1, node)
    _consume(state, weight, 1, columns, inputs)
    outputs = state.dim(weight, 0, rows, Role.PRODUCER)
    _record(state, node, weight, outputs, positions=shape.numel() // (shape[0] * rows))
    return outputs.expand(shape)


def conv(state: Propagation, node: Node) -> Tensor:
    """Convolution, weight (O, I/G, *kernel), or transposed, weight (I, O/G, *kernel): G = 1, depthwise, or grouped."""
    weight, transposed = state.tensor_name(node.args[1]), "transpose" in str(node.target)
    if weight is None:
        return _computed(state, node)
    x, shape = state.value(node.args[0]), node.meta["val"].shape
    size = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    groups = int(argument(node, "groups"))
    inputs = state.channels(x, 1, node)
    if groups > 1 and groups == len(inputs) and (size[1] == 1 or not transposed):
        outputs = _depthwise(state, weight, size[0], groups, inputs)
    elif transposed:
        columns = _consume(state, weight, 0, size[0], inputs)
        _grouped(state, weight, columns, groups)
        outputs = state.dim(weight, 1, size[1], Role.PRODUCER).repeat(groups)
    else:
        _consume(state, weight, 1, size[1], inputs, groups)
        outputs = _grouped(state, weight, state.dim(weight, 0, size[0], Role.PRODUCER), groups)
    positions = (x if transposed else node.meta["val"]).shape[2:].numel()
    _record(state, node, weight, outputs, positions, groups, transposed=transposed)
    return outputs.reshape(1, -1, *(1,) * (len(shape) - 2)).expand(shape)


def _computed(state: Propagation, node: Node) -> Tensor:
    """A weight that the code computes has no tensor to cut; its cost is there all the same."""
    result = node.meta["val"].shape
    weight: torch.Size = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    over = node.args[0].meta["val"].shape if "transpose" in str(node.target) else result  # type: ignore[union-attr]
    positions = over.numel() // (over[0] * over[-1 if node.target is torch.ops.aten.linear.default else 1])
    state.fixed_macs += positions * weight.numel()
    return state.unknown(node, COMPUTED)  # type: ignore[no-any-return]


def embedding(state: Propagation, node: Node) -> Tensor:
    """Rows of a table: y[..., o] = W[token, o]."""
    weight = state.tensor_name(node.args[0])
    if weight is None:
        return state.unknown(node, COMPUTED)  # type: ignore[no-any-return]
    shape = node.meta["val"].shape
    return state.dim(weight, 1, shape[-1], Role.PRODUCER).expand(shape)


def _consume(state: Propagation, weight: str, dim: int, size: int, inputs: Tensor, groups: int = 1) -> Tensor:
    columns = state.dim(weight, dim, size, Role.CONSUMER)
    state.labels.union(columns.repeat(groups), inputs, f"reads the network's input in {weight}")
    return columns


def _depthwise(state: Propagation, weight: str, size: int, groups: int, inputs: Tensor) -> Tensor:
    """Channel c makes outputs c * m .. c * m + m - 1."""
    outputs = state.dim(weight, 0, size, Role.THROUGH)
    state.labels.union(outputs, inputs.repeat_interleave(size // groups), f"filters the input in {weight}")
    return outputs


def _grouped(state: Propagation, weight: str, labels: Tensor, groups: int) -> Tensor:
    """The same index in every group, so that the groups stay equally wide."""
    if groups > 1:
        grid = labels.reshape(groups, -1)
        state.labels.union(grid[:1].expand_as(grid), grid, weight)
    return labels


def _record(
    state: Propagation,
    node: Node,
    weight: str,
    outputs: Tensor,
    positions: int,
    groups: int = 1,
    *,
    transposed: bool = False,
) -> None:
    given = node.args[2] if len(node.args) > 2 else None
    bias = state.tensor_name(given)
    if bias is not None:
        role = Role.THROUGH if (weight, 1) not in state.dims else Role.PRODUCER
        state.labels.union(state.dim(bias, 0, len(outputs), role), outputs, bias)
    else:
        state.freeze_computed(node, given, outputs)
    norm, summed = _only_norm(state, node), _only_summed(node)
    call = Computation(weight, bias, positions, groups, norm, transposed=transposed, summed=summed)
    state.computations.append(call)


def _only_summed(node: Node) -> bool:
    """Whether a node, past a batch norm or a dropout that alone read it, is read by nothing but an addition."""
    while True:
        readers = list(node.users)
        if len(readers) != 1:
            return False
        word = str(readers[0].target)
        if "batch_norm" not in word and "dropout" not in word:
            return word.startswith("aten.add")
        node = readers[0]


def _only_norm(state: Propagation, node: Node) -> str | None:
    """The running mean of the batch norm that is the single reader of a node."""
    readers = list(node.users)
    if len(readers) != 1 or "batch_norm" not in str(readers[0].target) or readers[0].args[0] is not node:
        return None
    return state.tensor_name(readers[0].args[3])
