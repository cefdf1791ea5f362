"""Faults of cosmic-ray's kinds, drawn at random from the places of some files."""

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """`code`: the file's whole text with one fault; `line`: where it is."""

    file: Path
    line: int
    operator: str
    code: str

    @property
    def module(self) -> str:
        parts = self.file.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def key(self) -> str:
        """The same for the same fault in the same text of the file."""
        return hashlib.sha256(f"{self.file.relative_to(ROOT)}\n{self.code}".encode()).hexdigest()[:16]

    def __str__(self) -> str:
        before, after = self.file.read_text("utf-8").splitlines(), self.code.splitlines()
        first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), self.line - 1)
        new = after[first].strip() if first < len(after) else ""
        return f"{self.file.relative_to(ROOT)}:{first + 1} `{before[first].strip()}` -> `{new}`"


def drawn(files: list[Path], count: int, rng: Random) -> tuple[list[Mutant], int]:
    """Mutants at `count` different places, and from how many; a larger count begins with the same ones."""
    places: dict[tuple[Path, Any], list[tuple[str, dict[str, Any], int]]] = {}
    for file in files:
        code = file.read_text("utf-8")
        tree, skipped = get_ast(code), _annotations(code)
        for name, args in _operators():
            operator = get_operator(name)(**args)
            spots = (p for node in ast_nodes(tree) for p in operator.mutation_positions(node))
            for occurrence, (start, end) in enumerate(spots):
                if not any(a <= start < b for a, b in skipped):
                    places.setdefault((file, (start, end)), []).append((name, args, occurrence))
    order = sorted(places)
    rng.shuffle(order)
    return [_mutant(file, at[0][0], *rng.choice(places[file, at])) for file, at in order[:count]], len(order)


def _mutant(file: Path, line: int, name: str, args: dict[str, Any], occurrence: int) -> Mutant:
    code = mutate_code(file.read_text("utf-8"), get_operator(name)(**args), occurrence)
    assert code is not None
    return Mutant(file, line, name.removeprefix("core/"), code)


def _operators() -> list[tuple[str, dict[str, Any]]]:
    """All that need no arguments."""
    return [
        (name, {}) for name in sorted(operator_names()) if not get_operator(name).arguments() and "NoOp" not in name
    ]


def _annotations(code: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where type annotations stand: (line, column) of begin and end."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
    return [
        ((n.lineno, n.col_offset), (n.end_lineno or n.lineno, n.end_col_offset or n.col_offset + 1))
        for n in found
        if n is not None
    ]
