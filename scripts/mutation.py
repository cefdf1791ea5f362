"""Mutation testing: small faults put into the code, one at a time; each should make a neighbouring test fail.

    python scripts/mutation.py selection pricing --count 40 --seed 0
    python scripts/mutation.py selection --only 17          # one mutant again, with what pytest says

The mutants are cosmic-ray's, except in type annotations, where they are no faults. All of them would take days: `count`
places per package are drawn at random, and one of the operators that apply at each. A mutant lives in memory alone: a
process that has torch imported forks, reads the mutated source in place of the file, and runs the tests of the package
(`PACKAGES`) until one fails. A mutant whose tests take ten times what they should is killed, too.
Exits 1 if tests fail without a mutant. Linux and macOS only.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
PACKAGES = {  # sources, tests
    "selection": (("selection.py",), ("test_selection.py",)),
    "pricing": (("pricing.py",), ("test_pricing.py",)),
    "influence": (("influence",), ("influence",)),
    "coupling": (("coupling",), ("coupling", "test_pieces.py")),
    "artifacts": (
        ("artifacts.py", "models/seal.py"),
        ("models/test_seal.py", "test_artifacts.py", "test_stored_files.py"),
    ),
}
COMMON = ("torch.export", "torch.func", "torchvision.models", "safetensors.torch", "pydantic", "sklearn.datasets")
PATIENCE = 10  # times the time that the tests take without a mutant
FLOOR = 60  # seconds


@dataclass(frozen=True)
class Mutant:
    """`code`: the file's whole text with one fault; `line`: where it is."""

    file: Path
    line: int
    operator: str
    code: str

    def __str__(self) -> str:
        before, after = self.file.read_text("utf-8").splitlines(), self.code.splitlines()
        first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), self.line - 1)
        new = after[first].strip() if first < len(after) else ""
        return f"{self.file.relative_to(ROOT)}:{first + 1} `{before[first].strip()}` -> `{new}`"


def main() -> None:
    options = _parsed()
    for name in COMMON:
        importlib.import_module(name)
    for package in options.packages:
        sources, tests = PACKAGES[package]
        files = sorted(f for s in sources for f in _files(ROOT / "infprune" / s))
        found = drawn(files, options.count, Random(f"{options.seed}/{package}"))  # noqa: S311
        words = [str(ROOT / "tests" / t) for t in tests]
        if options.only is not None:
            print(found[options.only])
            print("survived" if survives(found[options.only], words, 3600, told=True) else "killed")
            continue
        began = time.monotonic()
        if not survives(None, words, 3600, told=False):
            sys.exit(f"{package}: its tests fail without a mutant")
        limit = max(FLOOR, PATIENCE * (time.monotonic() - began))
        alive = 0
        for number, mutant in enumerate(found):
            survived = survives(mutant, words, limit, told=False)
            alive += survived
            if survived:
                print(f"{package} {number}: {mutant} ({mutant.operator})", flush=True)
            print(f"{package}: {number + 1} of {len(found)}, {alive} survived", file=sys.stderr, flush=True)
        took = time.monotonic() - began
        print(f"| {package} | {len(found)} | {len(found) - alive} | {alive} | {took:.0f} s |", flush=True)


def drawn(files: list[Path], count: int, rng: Random) -> list[Mutant]:
    """Mutants at `count` different places, drawn from all places of the files."""
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
    chosen = rng.sample(sorted(places), min(count, len(places)))
    return [_mutant(file, at[0][0], *rng.choice(places[file, at])) for file, at in chosen]


def survives(mutant: Mutant | None, words: list[str], limit: float, *, told: bool) -> bool:
    """Whether all tests pass in a process of its own that reads the mutated source."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        code = 1
        with contextlib.suppress(BaseException):
            code = _test(mutant, words, told=told)
        os._exit(code)
    os.close(writing)
    hung = not select.select([reading], [], [], limit)[0]  # readable once the child, and what it started, has ended
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    return not hung and status == 0


def _test(mutant: Mutant | None, words: list[str], *, told: bool) -> int:
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    if mutant is not None and not told:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    return int(pytest.main([*words, *options, "-c", str(ROOT / "pyproject.toml")], plugins=[_Unshrunk()]))


class _Unshrunk:
    """One failing example is enough: hypothesis need not look for a smaller one."""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings  # noqa: PLC0415 - pytest rewrites it first

        settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate], database=None)
        settings.load_profile("mutation")


class _Loader(SourceFileLoader):
    """Reads the mutated text of a file."""

    def __init__(self, name: str, mutant: Mutant) -> None:
        super().__init__(name, str(mutant.file))
        self.mutant = mutant

    def get_code(self, fullname: str) -> Any:
        del fullname
        return compile(self.mutant.code, self.mutant.file, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the mutated module and no other."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        parts = mutant.file.relative_to(ROOT).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del path, target
        if name != self.name:
            return None
        package = [str(self.mutant.file.parent)] if self.mutant.file.name == "__init__.py" else None
        loader = _Loader(name, self.mutant)
        return importlib.util.spec_from_file_location(
            name, self.mutant.file, loader=loader, submodule_search_locations=package
        )


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


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.glob("*.py"))


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", choices=list(PACKAGES))
    parser.add_argument("--count", type=int, default=40, help="mutants per package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one mutant, by its number")
    return parser.parse_args()


if __name__ == "__main__":
    main()
