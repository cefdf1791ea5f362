"""The network run on labels: each node's activation becomes a tensor that says which channel stands where."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from infprune.coupling.graph import Graph, source
from infprune.coupling.groups import Computation, Role
from infprune.coupling.labels import FIXED, Labels, compact

Rule = Callable[["Propagation", Node], Any]


class Propagation:
    """Labels of every value of a graph, of every tensor dimension met, and the weight calls in order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.labels = Labels()
        self.roles: dict[tuple[str, int], Role] = {}
        self.dims: dict[tuple[str, int], Tensor] = {}
        self.computations: list[Computation] = []
        self.mixed: list[tuple[str, Tensor]] = []  # tensors that are read element by element
        self._values: dict[Node, Any] = {}

    def run(self, rule_of: Callable[[Node], Rule | None]) -> None:
        """Visit the nodes in order; what no rule knows is frozen, by name and source line."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if node not in self.graph.tensors:
                    self._values[node] = _fixed(node.meta["val"])
            elif node.op == "output":
                map_arg(node.args, lambda n: self.freeze(self.value(n), "it is an output of the network"))
            else:
                self._values[node] = self._apply(rule_of(node), node)

    def _apply(self, rule: Rule | None, node: Node) -> Any:
        if rule is None:
            return self.unknown(node)
        try:
            return rule(self, node)
        except (RuntimeError, IndexError, ValueError):  # a shape the rule does not expect, e.g. no batch dimension
            return self.unknown(node)

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
        return self.dims[key]

    def channels(self, labels: Tensor, dim: int, node: Node) -> Tensor:
        """One label per index along `dim`; what stands at the other positions is merged into it."""
        rows = compact(labels).movedim(dim, 0)
        rows = rows.expand(labels.shape[dim], *rows.shape[1:]).reshape(labels.shape[dim], -1)
        first = rows[:, :1]
        if rows.shape[1] > 1:
            self.labels.union(first.expand_as(rows), rows, source(node))
        return self.labels.find(first[:, 0])

    def freeze(self, value: Any, reason: str) -> None:
        """Freeze every label of a value."""
        tree_map(lambda t: self.labels.freeze(compact(t), reason) if isinstance(t, Tensor) else None, value)

    def unknown(self, node: Node) -> Any:
        """An operation without a rule: freeze all that reaches it."""
        map_arg((node.args, node.kwargs), lambda n: self.freeze(self.value(n), f"no rule for {source(node)}"))
        return _fixed(node.meta.get("val"))

    def _elementwise(self, node: Node) -> Tensor:
        """Labels of a tensor that is used as a value: per entry of its one long dimension, else per element."""
        name, shape = self.graph.tensors[node], node.meta["val"].shape
        long = [d for d, size in enumerate(shape) if size > 1]
        if not long:
            return torch.zeros(shape, dtype=torch.int64)
        if len(long) == 1:
            return self.dim(name, long[0], shape[long[0]], Role.THROUGH).reshape(shape)
        labels = self.labels.fresh(shape.numel()).reshape(shape)
        self.mixed.append((name, labels))
        return labels


def _fixed(meta: Any) -> Any:
    return tree_map(lambda t: torch.full((1,) * t.dim(), FIXED).expand(t.shape) if isinstance(t, Tensor) else t, meta)


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
