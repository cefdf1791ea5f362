"""From a module to an ATen graph whose placeholders know the names of their tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

from infprune.errors import ArchitectureError
from infprune.modes import evaluating


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order; `tensors` maps a placeholder to its parameter or buffer name."""

    nodes: tuple[Node, ...]
    tensors: Mapping[Node, str]
    constants: frozenset[Node]


def trace(module: nn.Module, example: Tensor) -> Graph:
    """Export `module` in eval mode with `torch.export`; its training state is left as it was.

    Raises:
        ArchitectureError: the network cannot be exported, with the first line of the reason.
    """
    try:
        with evaluating(module):
            exported = torch.export.export(module, (example,))
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ArchitectureError(
            f"cannot trace {type(module).__name__} on an input of shape {tuple(example.shape)}: {reason}"
        ) from error
    canonical = _canonical_names(module)
    by_name = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}
    tensors, constants = {}, set()
    for spec in exported.graph_signature.input_specs:
        node = by_name[spec.arg.name]
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
            tensors[node] = canonical[spec.target]
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants.add(node)
    return Graph(tuple(exported.graph.nodes), tensors, frozenset(constants))


def _canonical_names(module: nn.Module) -> dict[str, str]:
    """Tied tensors have several names; all map to the first one."""
    first: dict[int, str] = {}
    pairs = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in pairs}


def source(node: Node) -> str:
    """The operation's name and the user's line that called it, for messages."""
    name = getattr(node.target, "__name__", str(node.target)).removesuffix(".default")
    stack = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    if len(stack) < 2:
        return name
    where, code = stack[-2], stack[-1]
    file, _, line = where.removeprefix('File "').partition('", line ')
    return f"{name} at {file.rpartition('/')[2]}:{line.partition(',')[0]} `{code}`"
