"""The network run on labels: each node's activation becomes a tensor that says which channel stands where."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from infprune.coupling.graph import Graph, owner, source
from infprune.coupling.groups import Computation, Role
from infprune.coupling.labels import Labels, compact, constant

EVERYWHERE = "*"
Rule = Callable[["Propagation", Node], Any]


@dataclass(frozen=True)
class Options:
    """`follow`: the attributes (`module@attribute`) that change with the widths they equal.

    `heads`: the modules (or `EVERYWHERE`) whose attention heads are removed whole, not the same index in every head.
    """

    follow: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()


class Propagation:
    """Labels of every value of a graph, of every tensor dimension met, and the weight calls in order."""

    def __init__(self, graph: Graph, options: Options) -> None:
        self.graph = graph
        self.options = options
        self.labels = Labels()
        self.roles: dict[tuple[str, int], Role] = {}
        self.dims: dict[tuple[str, int], Tensor] = {}
        self.computations: list[Computation] = []
        self.mixed: list[tuple[str, Tensor]] = []  # tensors that are read element by element
        self.inexact: list[tuple[Tensor, str]] = []
        self.multiplied: list[tuple[Tensor, str]] = []
        self.norms: set[str] = set()
        self.fixed_macs = 0
        self.scaled: set[str] = set()  # modules whose attention scales with the width of a head
        self.candidates: list[tuple[str, Tensor]] = []
        self._values: dict[Node, Any] = {}

    def run(self, rule_of: Callable[[Node], Rule | None]) -> None:
        """Visit the nodes in order; what no rule knows is frozen, by name and source line."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if node not in self.graph.tensors:
                    self._values[node] = fixed(node.meta["val"])
            elif node.op == "output":
                map_arg(node.args, lambda n: self.freeze(self.value(n), "it is an output of the network"))
            else:
                self._values[node] = self._apply(rule_of(node), node)

    def _apply(self, rule: Rule | None, node: Node) -> Any:
        if rule is None:
            return self.unknown(node)
        try:
            return rule(self, node)
        except (RuntimeError, IndexError, ValueError) as error:  # a shape the rule does not expect, e.g. no batch
            return self.unknown(node, f"the rule does not fit ({str(error).splitlines()[0]}) for")

    def value(self, node: Any) -> Any:
        """The labels of an argument: a tensor, a sequence of tensors, or the plain value itself."""
        if not isinstance(node, Node):
            return node
        if node not in self._values:
            self._values[node] = self._elementwise(node)
        return self._values[node]

    def tensor_name(self, node: Any) -> str | None:
        """The parameter or buffer behind an argument, if it is one."""
        return self.graph.tensors.get(node) if isinstance(node, Node) else None

    def dim(self, name: str, dim: int, size: int, role: Role) -> Tensor:
        """The labels of one dimension of a parameter or buffer. Shape `(size,)`."""
        key = (name, dim)
        if key not in self.dims:
            self.dims[key] = self.labels.fresh(size)
            self.roles[key] = role
        elif {role, self.roles[key]} == {Role.PRODUCER, Role.CONSUMER}:
            self.labels.freeze(self.dims[key], f"{name} makes these channels and reads them")
        return self.dims[key]

    def channels(self, labels: Tensor, dim: int, node: Node) -> Tensor:
        """One label per index along `dim`; what stands at the other positions is merged into it."""
        rows = compact(labels).movedim(dim, 0)
        rows = rows.expand(labels.shape[dim], *rows.shape[1:]).reshape(labels.shape[dim], -1)
        first = rows[:, :1]
        if rows.shape[1] > 1:
            self.labels.union(first.expand_as(rows), rows, source(node))
        return self.labels.find(first[:, 0])

    def varies(self, labels: Tensor, dim: int) -> bool:
        """Whether different channels stand along `dim`."""
        return self.labels.varies(labels, dim)

    def tie(self, labels: Tensor, dim: int, factors: Sequence[int], node: Node, keep: int = -1) -> None:
        """Keep a dimension that code splits into `factors` a full grid: only factor `keep` may lose indices."""
        grid = self.channels(labels, dim, node).reshape(*factors)
        if sum(self.varies(grid, d) for d in range(grid.dim())) > 1:
            grid = grid.movedim(keep, -1).flatten(0, -2)
            self.labels.union(grid[:1].expand_as(grid), grid, source(node))

    def width(self, node: Node, asked: Any, labels: Tensor, dim: int) -> bool:
        """Note that the code asks for the size of `dim`; whether an attribute of its module of this value follows.

        Args:
            node: the operation.
            asked: the size as it stands in the operation; -1 is free.
            labels: the result, whose size along `dim` is `asked`.
            dim: a dimension along which channels stand.
        """
        names = [name for name, value in self.graph.attributes.get(owner(node), {}).items() if value == asked]
        if not names:
            return False
        rows, keys = self.channels(labels, dim, node), [f"{owner(node)}@{name}" for name in names]
        self.candidates.extend((key, rows) for key in keys)
        followed = [key for key in keys if key in self.options.follow]
        for key in followed:
            self.follow(key, rows)
        return bool(followed)

    def follow(self, attribute: str, rows: Tensor) -> None:
        """Let an attribute be the number of these channels."""
        labels = self.dim(attribute, 0, len(rows), Role.SIZE)
        self.labels.union(labels, rows, f"the width {attribute}")

    def freeze(self, value: Any, reason: str) -> None:
        """Freeze every label of a value."""
        tree_map(lambda t: self.labels.freeze(compact(t), reason) if isinstance(t, Tensor) else None, value)

    def freeze_computed(self, node: Node, argument: Any, channels: Tensor) -> None:
        """A bias or scale that the code computes has no tensor of its own to cut: its channels stay."""
        if isinstance(argument, Node):
            reason = f"computed {argument.name} in {source(node)}"
            self.labels.freeze(channels, reason)
            self.freeze(self.value(argument), reason)

    def unknown(self, node: Node, why: str = "no rule for") -> Any:
        """An operation without a rule: freeze all that reaches it."""
        map_arg((node.args, node.kwargs), lambda n: self.freeze(self.value(n), f"{why} {source(node)}"))
        return fixed(node.meta.get("val"))

    def _elementwise(self, node: Node) -> Tensor:
        """Labels of a tensor that is used as a value: per entry of its one long dimension, else per element."""
        name, shape = self.graph.tensors[node], node.meta["val"].shape
        long = [d for d, size in enumerate(shape) if size > 1]
        if not long:
            return torch.zeros(shape, dtype=torch.int64)
        if len(long) == 1:
            labels = self.dim(name, long[0], shape[long[0]], Role.THROUGH)
            return labels.reshape([-1 if d == long[0] else 1 for d in range(len(shape))]).expand(shape)
        labels = self.labels.fresh(shape.numel()).reshape(shape)
        self.mixed.append((name, labels))
        return labels


def fixed(meta: Any) -> Any:
    """The labels of a value that no cut may change."""
    return tree_map(lambda t: constant(t.shape) if isinstance(t, Tensor) else t, meta)


def by_name(rules: Mapping[str, Rule], pointwise: Rule) -> Callable[[Node], Rule | None]:
    """Look a node's rule up: its ATen name without the in-place underscore, else the pointwise tag."""

    def rule_of(node: Node) -> Rule | None:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - the public name of the type of every ATen node
            return rules.get(getattr(target, "__name__", ""))
        name = target.overloadpacket.__name__
        name = name if name.startswith("__") else name.rstrip("_")
        if name in rules:
            return rules[name]
        return pointwise if torch.Tag.pointwise in target.tags else None

    return rule_of
