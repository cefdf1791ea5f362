"""From a module to an ATen graph whose placeholders know the names of their tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from infprune import forward
from infprune.errors import ArchitectureError, out_of_memory
from infprune.forward import Inputs
from infprune.modes import evaluating
from infprune.progress import quiet


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order; `tensors` maps a placeholder to its parameter or buffer name.

    `attributes`: module path -> its integer attributes (`"head_dim"`, `"normalized_shape[0]"`) with their values.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[Node, str]
    attributes: Mapping[str, Mapping[str, int]]


def trace(module: nn.Module, example: Inputs) -> Graph:
    """Export `module` in eval mode with `torch.export`; its training state is left as it was.

    Raises:
        ArchitectureError: the network cannot be exported, with the first line of the reason.
    """
    try:
        with evaluating(module), quiet():
            exported = torch.export.export(module, forward.tensors(example))
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        shapes = ", ".join(str(tuple(t.shape)) for t in forward.tensors(example))
        raise ArchitectureError(
            f"cannot trace {type(module).__name__} on an input of shape {shapes}: {reason}"
        ) from error
    canonical = _canonical_names(module)
    by_name = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}
    tensors = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
            tensors[by_name[spec.arg.name]] = canonical[spec.target]
    return Graph(tuple(exported.graph.nodes), tensors, {name: _integers(m) for name, m in module.named_modules()})


def _canonical_names(module: nn.Module) -> dict[str, str]:
    """Tied tensors have several names; all map to the first one."""
    first: dict[int, str] = {}
    pairs = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in pairs}


def _integers(module: nn.Module) -> dict[str, int]:
    """The module's own integers above 1, and those in its tuples and lists."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        parts = (
            {name: value} if not isinstance(value, tuple | list) else {f"{name}[{i}]": v for i, v in enumerate(value)}
        )
        found.update({key: v for key, v in parts.items() if type(v) is int and v > 1})
    return found


def owner(node: Node) -> str:
    """Path of the innermost module whose code runs the operation."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def argument(node: Node, name: str, default: Any = None) -> Any:
    """An argument of an ATen operation by the name its schema gives it."""
    schema = getattr(node.target, "_schema", None)
    for i, spec in enumerate(schema.arguments if schema else ()):
        if spec.name == name:
            if i < len(node.args):
                return node.args[i]
            return node.kwargs.get(name, spec.default_value if spec.has_default_value() else default)
    return default


def source(node: Node) -> str:
    """The operation's name and the user's line that called it, for messages."""
    name = getattr(node.target, "__name__", str(node.target)).removesuffix(".default")
    stack = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    if len(stack) < 2:
        return name
    where, code = stack[-2], stack[-1]
    file, _, line = where.removeprefix('File "').partition('", line ')
    return f"{name} at {file.rpartition('/')[2]}:{line.partition(',')[0]} `{code}`"
