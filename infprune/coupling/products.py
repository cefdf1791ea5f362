"""Products of two activations, or of an activation and a weight of no module: matmul, einsum, attention."""

from typing import Any

from torch import Tensor
from torch.fx import Node

from infprune.coupling.graph import argument, owner, source
from infprune.coupling.groups import Computation, Role
from infprune.coupling.labels import FIXED, compact, constant
from infprune.coupling.pointwise import merged
from infprune.coupling.propagation import Propagation

BATCH = "abcdefgh"


def matmul(state: Propagation, node: Node) -> Any:
    """`a @ b` with broadcast batch dimensions; `mm`, `bmm` too."""
    operands = node.args[:2]
    first, second = (n.meta["val"].dim() - 2 for n in operands)  # type: ignore[union-attr]
    if min(first, second) < 0:
        return state.unknown(node)
    batch = BATCH[: max(first, second)]
    letters = (batch[len(batch) - first :] + "ik", batch[len(batch) - second :] + "kj")
    return _contract(state, node, operands, letters, batch + "ij")


def einsum(state: Propagation, node: Node) -> Any:
    """Two operands without repeated letters; others have no rule."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    assert isinstance(operands, list | tuple)
    left, arrow, out = equation.partition("->")
    subscripts = left.split(",")
    repeated = any(len(set(s)) < len(s) for s in subscripts)
    if len(operands) != 2 or not arrow or "." in equation or repeated:
        return state.unknown(node)
    return _contract(state, node, tuple(operands), (subscripts[0], subscripts[1]), out)


def attention(state: Propagation, node: Node) -> Any:
    """softmax(scale q k^T) v. Without a given scale it is 1/sqrt(width of q), which a cut would change."""
    q, k, v = (state.value(n) for n in node.args[:3])
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return state.unknown(node)
    if argument(node, "scale") is None and state.varies(q, q.dim() - 1):
        state.freeze(q, f"scaled by 1/sqrt(width) in {source(node)}")
        state.scaled.add(owner(node))
    batch = BATCH[: q.dim() - 2]
    logits = _product(state, node, (q, k), (batch + "ik", batch + "jk"), batch + "ij")
    mask = argument(node, "attn_mask")
    if mask is not None:
        logits = merged(state, node, logits, state.value(mask))
    return _product(state, node, (logits, v), (batch + "ij", batch + "jv"), batch + "iv")


def _contract(state: Propagation, node: Node, operands: tuple[Any, ...], subscripts: tuple[str, str], out: str) -> Any:
    """A product in Einstein's notation; one operand may be a parameter, which is then a weight."""
    for mine, other in ((0, 1), (1, 0)):
        name = state.tensor_name(operands[mine])
        if name is not None:
            x = state.value(operands[other])
            return _weighted(state, node, name, operands[mine], subscripts[mine], x, subscripts[other], out)
    values = (state.value(operands[0]), state.value(operands[1]))
    return _product(state, node, values, subscripts, out)


def _weighted(
    state: Propagation, node: Node, name: str, weight: Node, letters: str, x: Tensor, read: str, out: str
) -> Tensor:
    """Multiply by a parameter: contracted dimensions consume, the others produce."""
    size = dict(zip(letters, weight.meta["val"].shape, strict=True)) | dict(zip(read, x.shape, strict=True))
    result = constant(node.meta["val"].shape)
    for dim, letter in enumerate(letters):
        if letter in read:
            rows = state.channels(x, read.index(letter), node)
            role = Role.THROUGH if letter in out else Role.CONSUMER
            labels = state.dim(name, dim, size[letter], role)
            state.labels.union(labels, rows, f"reads the network's input in {name}")
        elif letter in out:
            labels = state.dim(name, dim, size[letter], Role.PRODUCER)
        else:
            state.freeze(x, f"reduced over channels in {source(node)}")
            continue
        if letter in out:
            placed = labels.reshape([-1 if o == letter else 1 for o in out])
            result = _joined(state, node, result, placed.expand(result.shape))
    shape = node.meta["val"].shape
    positions = shape.numel() // max(1, shape[0])
    for letter in letters:
        positions //= size[letter] if letter in out else 1
    state.computations.append(Computation(name, None, positions, 1))
    return result


def _product(
    state: Propagation, node: Node, values: tuple[Tensor, Tensor], subscripts: tuple[str, str], out: str
) -> Tensor:
    """Labels of a product of activations. What is summed over must go in both; the rest stays in the result."""
    size: dict[str, int] = {}
    for x, letters in zip(values, subscripts, strict=True):
        size |= {letter: max(n, size.get(letter, 1)) for letter, n in zip(letters, x.shape, strict=True)}
    shape = tuple(size[letter] for letter in out)
    summed = sorted((set(subscripts[0]) | set(subscripts[1])) - set(out))
    parts = []
    rows: dict[str, list[Tensor]] = {}
    for x, letters in zip(values, subscripts, strict=True):
        carries = [letter for letter in summed if letter in letters and state.varies(x, letters.index(letter))]
        for letter in carries:
            rows.setdefault(letter, []).append(state.channels(x, letters.index(letter), node))
        parts.append(constant(shape) if carries else _placed(x, letters, out, shape))
    for letter, found in rows.items():
        both = all(letter in letters for letters in subscripts)
        if not both or len(found) < 2:
            for labels in found:
                state.freeze(labels, f"summed with values that have no such channels in {source(node)}")
        else:
            state.labels.union(found[0], found[1], source(node))
            state.multiplied.append((found[0], source(node)))
    return _joined(state, node, parts[0], parts[1])


def _placed(x: Tensor, letters: str, out: str, shape: tuple[int, ...]) -> Tensor:
    """An operand's labels along the dimensions of the result; along the summed ones it does not vary."""
    for dim in reversed(range(len(letters))):
        if letters[dim] not in out:
            x = x.select(dim, 0)
    kept = [letter for letter in letters if letter in out]
    x = x.permute([kept.index(letter) for letter in out if letter in kept])
    for dim, letter in enumerate(out):
        if letter not in kept:
            x = x.unsqueeze(dim)
    return x.expand(shape)


def _joined(state: Propagation, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Labels of a result that both operands reach: one label per entry, or none where channels meet channels."""
    a, b = state.labels.loose(a), state.labels.loose(b)
    carries_a = [d for d in range(a.dim()) if state.varies(a, d)]
    carries_b = [d for d in range(b.dim()) if state.varies(b, d)]
    if carries_a and carries_b and carries_a != carries_b:
        for labels in (a, b):
            state.freeze(labels, f"an outer product of channels in {source(node)}")
        return constant(a.shape)
    if not carries_a or not carries_b:
        return b if carries_b else a
    small = [max(m, n) for m, n in zip(compact(a).shape, compact(b).shape, strict=True)]
    first, second = compact(a).expand(small), compact(b).expand(small)
    both = (first != FIXED) & (second != FIXED)
    state.labels.union(first[both], second[both], source(node))
    return first.where(first != FIXED, second).expand(a.shape)
