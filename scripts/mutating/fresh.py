"""Tests in a process that imports the package anew, with a mutant in place of a file: any mutant, but slow."""

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from typing import Any

import pytest

from mutating.mutants import ROOT, Mutant

OPTIONS = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]


def tested(mutant: Mutant | None, tests: list[str]) -> int:
    """pytest's exit code; to be called in a fork of a process that has not imported the package."""
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    return int(pytest.main([*tests, *OPTIONS], plugins=[Unshrunk()]))


class Unshrunk:
    """One failing example is enough: hypothesis need not look for a smaller one. No test fails for being slow."""

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        from hypothesis import HealthCheck, Phase, settings  # noqa: PLC0415 - pytest rewrites it first

        phases, checks = [Phase.explicit, Phase.generate], list(HealthCheck)
        settings.register_profile(
            "mutation", phases=phases, suppress_health_check=checks, deadline=None, database=None, derandomize=True
        )
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

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        del path, target
        if name != self.mutant.module:
            return None
        package = [str(self.mutant.file.parent)] if self.mutant.file.name == "__init__.py" else None
        loader = _Loader(name, self.mutant)
        return importlib.util.spec_from_file_location(
            name, self.mutant.file, loader=loader, submodule_search_locations=package
        )
