"""Operations that combine channels: one small rule each."""

from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import source
from infprune.coupling.groups import Computation, Role
from infprune.coupling.labels import compact, varies
from infprune.coupling.propagation import Propagation


def linear(state: Propagation, node: Node) -> Tensor:
    """y[..., o] = sum_i W[o, i] x[..., i] + b[o]."""
    weight = state.tensor_name(node.args[1])
    if weight is None:
        return state.unknown(node)  # type: ignore[no-any-return]
    x, shape = state.value(node.args[0]), node.meta["val"].shape
    rows, columns = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    inputs = state.channels(x, x.dim() - 1, node)
    state.labels.union(state.dim(weight, 1, columns, Role.CONSUMER), inputs, f"reads the network's input in {weight}")
    outputs = state.dim(weight, 0, rows, Role.PRODUCER)
    _record(state, node, weight, outputs, positions=shape.numel() // (shape[0] * rows), groups=1)
    return outputs.expand(shape)


def conv(state: Propagation, node: Node) -> Tensor:
    """Convolution, weight (O, I/G, *kernel): G = 1, depthwise (G = I), or grouped."""
    weight = state.tensor_name(node.args[1])
    if weight is None:
        return state.unknown(node)  # type: ignore[no-any-return]
    x, shape = state.value(node.args[0]), node.meta["val"].shape
    size = node.args[1].meta["val"].shape  # type: ignore[union-attr]
    groups = _groups(node)
    inputs = state.channels(x, 1, node)
    outputs = _conv_outputs(state, weight, size, groups, inputs)
    positions = shape[2:].numel()
    _record(state, node, weight, outputs, positions=positions, groups=groups)
    return outputs.reshape(1, -1, *(1,) * (len(shape) - 2)).expand(shape)


def _conv_outputs(state: Propagation, weight: str, size: tuple[int, ...], groups: int, inputs: Tensor) -> Tensor:
    if groups > 1 and groups == len(inputs):  # depthwise: channel c makes outputs c * m .. c * m + m - 1
        outputs = state.dim(weight, 0, size[0], Role.THROUGH)
        state.labels.union(outputs, inputs.repeat_interleave(size[0] // groups), f"filters the input in {weight}")
        return outputs
    outputs = state.dim(weight, 0, size[0], Role.PRODUCER)
    columns = state.dim(weight, 1, size[1], Role.CONSUMER)
    state.labels.union(columns.repeat(groups), inputs, f"reads the network's input in {weight}")
    if groups > 1:  # the same index in every group, so that the groups stay equally wide
        grid = outputs.reshape(groups, -1)
        state.labels.union(grid[:1].expand_as(grid), grid, weight)
    return outputs


def _groups(node: Node) -> int:
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    assert isinstance(groups, int)
    return groups


def _record(state: Propagation, node: Node, weight: str, outputs: Tensor, positions: int, groups: int) -> None:
    bias = state.tensor_name(node.args[2]) if len(node.args) > 2 else None
    if bias is not None:
        role = state.roles[(weight, 0)]
        state.labels.union(state.dim(bias, 0, len(outputs), role), outputs, bias)
    elif len(node.args) > 2:
        _freeze_computed(state, node, node.args[2], outputs)
    state.computations.append(Computation(weight, bias, positions, groups, _only_norm(state, node)))


def _only_norm(state: Propagation, node: Node) -> str | None:
    """The running mean of the batch norm that is the single reader of a node."""
    readers = list(node.users)
    if len(readers) != 1 or "batch_norm" not in str(readers[0].target) or readers[0].args[0] is not node:
        return None
    return state.tensor_name(readers[0].args[3])


def batch_norm(state: Propagation, node: Node) -> Tensor:
    """y[:, c] = gamma_c (x[:, c] - mu_c) / sigma_c + beta_c: one entry of every tensor per channel."""
    x: Tensor = state.value(node.args[0])
    channels = state.channels(x, 1, node)
    for argument in node.args[1:5]:
        name = state.tensor_name(argument)
        if name is not None:
            state.labels.union(state.dim(name, 0, len(channels), Role.THROUGH), channels, f"normalises {name}")
        else:
            _freeze_computed(state, node, argument, channels)
    return x


def _freeze_computed(state: Propagation, node: Node, argument: object, channels: Tensor) -> None:
    """A bias or scale that the code computes has no tensor of its own to cut: its channels stay."""
    if isinstance(argument, Node):
        reason = f"computed {argument.name} in {source(node)}"
        state.labels.freeze(channels, reason)
        state.freeze(state.value(argument), reason)


def pool(state: Propagation, node: Node) -> Tensor:
    """Pooling over the trailing dimensions: channels stay, positions of one channel are merged."""
    x: Tensor = state.value(node.args[0])
    shape = node.meta["val"].shape
    channels = state.channels(x, 1, node)
    return channels.reshape(1, -1, *(1,) * (len(shape) - 2)).expand(shape)


def reduce_positions(state: Propagation, node: Node) -> Tensor:
    """Mean over dimensions along which the channel does not change; over channels it would change its meaning."""
    x: Tensor = state.value(node.args[0])
    dims = node.args[1] if len(node.args) > 1 else list(range(x.dim()))
    dims = [dims] if isinstance(dims, int) else list(dims)  # type: ignore[arg-type]
    keep = bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))
    for d in sorted((int(d) % x.dim() for d in dims), reverse=True):  # type: ignore[arg-type]
        if varies(x, d):
            state.freeze(compact(x), f"reduced over channels in {source(node)}")
        x = x.narrow(d, 0, 1) if keep else x.select(d, 0)
    return x
