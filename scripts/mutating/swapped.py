"""Tests in forks of a process that has collected them: a mutant's functions get its bytecode just before they run.

Fast, but only for faults inside functions. A fault runs the tests that execute a line of its functions, quickest first.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from coverage import Coverage

from mutating.forks import ended
from mutating.fresh import OPTIONS, Unshrunk
from mutating.mutants import Mutant

OPTIMIZED = 1  # flag of a function's code; those of modules and classes run at import
PATIENCE = 10  # times the time that the tests take without a mutant
FLOOR = 60  # seconds
FAILED = 9  # exit code of a fork in which a test failed


def changes(mutant: Mutant) -> list[tuple[CodeType, CodeType]] | None:
    """Functions of the file before and after; None if more than functions changed."""
    before, after = (compile(text, str(mutant.file), "exec") for text in (mutant.file.read_text("utf-8"), mutant.code))
    return _pairs(before, after)


def _pairs(before: CodeType, after: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    if before == after:
        return []
    if before.co_flags & OPTIMIZED:
        return [(before, after)]
    olds, news = _inner(before), _inner(after)
    if _own(before) != _own(after) or len(olds) != len(news):
        return None
    found = [_pairs(old, new) for old, new in zip(olds, news, strict=True)]
    return None if None in found else [pair for pairs in found for pair in pairs or []]


def _own(code: CodeType) -> tuple[object, ...]:
    """What a module or class does itself, but for the functions that it defines."""
    return code.co_code, code.co_names, tuple(repr(c) for c in code.co_consts if not isinstance(c, CodeType))


def _inner(code: CodeType) -> list[CodeType]:
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def _place(code: CodeType) -> tuple[str, int, str]:
    """Tells functions apart; code that has run is not equal to the same code that has not (Python 3.11)."""
    return code.co_filename, code.co_firstlineno, code.co_qualname


@dataclass(frozen=True)
class Known:
    """The tests without a mutant: seconds of each, and which of them execute a line, by file."""

    seconds: dict[str, float]
    reached: dict[str, dict[int, list[str]]]

    def reach(self, file: Path, code: CodeType) -> list[str]:
        """Tests that execute a line of a function, quickest first."""
        lines = {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
        lines = lines or {code.co_firstlineno}
        reached = self.reached.get(str(file), {})
        return sorted({t for line in lines for t in reached.get(line, ())}, key=lambda t: self.seconds[t])


def judge(
    mutants: Sequence[Mutant], files: Sequence[Path], tests: list[str], store: Path, heard: Callable[[int, str], None]
) -> int:
    """Judge mutants inside functions, in a process that has not imported the package; `heard`: number and outcome."""
    return int(pytest.main([*tests, *OPTIONS], plugins=[Unshrunk(), _Session(mutants, files, store, heard)]))


class _Session:
    """Collects once; then a fork for each mutant."""

    def __init__(
        self, mutants: Sequence[Mutant], files: Sequence[Path], store: Path, heard: Callable[[int, str], None]
    ) -> None:
        self.mutants, self.files, self.store, self.heard = mutants, files, store, heard

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if ended(lambda: self._learn(session), 3600) != 0:
            pytest.exit("tests fail without a mutant", 1)
        content = json.loads(self.store.read_text("utf-8"))
        lines = {file: {int(n): t for n, t in found.items()} for file, found in content["reached"].items()}
        known = Known(content["seconds"], lines)
        for number, mutant in enumerate(self.mutants):
            self.heard(number, self._outcome(session, known, mutant))
        return True

    def _outcome(self, session: pytest.Session, known: Known, mutant: Mutant) -> str:
        pairs = changes(mutant)
        assert pairs is not None
        chosen = list(dict.fromkeys(t for old, _ in pairs for t in known.reach(mutant.file, old)))
        if not chosen:
            return "not reached"
        limit = max(FLOOR, PATIENCE * sum(known.seconds[t] for t in chosen))
        code = ended(lambda: self._try(session, pairs, chosen), limit)
        if code is None or code == 0:
            return "hung" if code is None else "survived"
        assert code == FAILED or code < 0, f"{mutant}: not a test but the harness failed"
        return "killed"

    def _try(self, session: pytest.Session, pairs: list[tuple[CodeType, CodeType]], chosen: list[str]) -> int:
        swapped = {_place(old): new for old, new in pairs}
        functions = [f for f in gc.get_objects() if type(f) is FunctionType and _place(f.__code__) in swapped]
        assert functions, "nothing to put it into"
        for function in functions:
            function.__code__ = swapped[_place(function.__code__)]
        by_name = {item.nodeid: item for item in session.items}
        for _ in _ran([by_name[name] for name in chosen]):
            if session.testsfailed:
                return FAILED
        return 0

    def _learn(self, session: pytest.Session) -> int:
        watch = Coverage(data_file=None, include=[str(f) for f in self.files], config_file=False)
        watch.start()
        seconds, began = {}, time.monotonic()
        watch.switch_context(session.items[0].nodeid)
        for item, following in _ran(session.items):
            seconds[item.nodeid], began = time.monotonic() - began, time.monotonic()
            if session.testsfailed:
                return 1
            watch.switch_context("" if following is None else following.nodeid)
        watch.stop()
        data = watch.get_data()
        reached = {
            file: {line: [t for t in names if t] for line, names in data.contexts_by_lineno(file).items()}
            for file in data.measured_files()
        }
        self.store.write_text(json.dumps({"seconds": seconds, "reached": reached}), "utf-8")
        return 0


def _ran(items: list[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Run tests one after the other; yields each that has run, and the one after it."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        sys.stdout.flush()
        yield item, following
