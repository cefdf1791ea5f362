"""Mutation testing: small faults put into the code, one at a time; each should make a neighbouring test fail.

    python scripts/mutation.py selection pricing --count 40 --seed 0
    python scripts/mutation.py selection --only 17          # one mutant again, by all tests, with what pytest says

The mutants are cosmic-ray's, except in type annotations, where they are no faults. All would take days: `count`
places per package are drawn at random, one of the operators that apply at each. A mutant lives in memory alone, in a
fork of a process that has torch imported. For a fault inside a function the tests are collected, too, and those that
reach it run (`mutating/swapped.py`); for any other the package is imported anew and all its tests run
(`mutating/fresh.py`). A mutant whose tests take ten times what they should is killed.
What is judged is kept in build/mutation.jsonl: a second call goes on; `--again` judges survivors anew.
Exits 1 if tests fail without a mutant. Linux and macOS only.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from mutating.forks import ended, redirect
from mutating.fresh import tested
from mutating.mutants import ROOT, Mutant, drawn
from mutating.swapped import changes, judge

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
HOUR = 3600.0
JUDGED = ROOT / "build" / "mutation.jsonl"
LOG = ROOT / "build" / "mutation.log"  # what pytest said


def main() -> None:
    options = _parsed()
    for name in COMMON:
        importlib.import_module(name)
    for package in options.packages:
        sources, tests = PACKAGES[package]
        files = sorted(f for s in sources for f in _files(ROOT / "infprune" / s))
        found, places = drawn(files, options.count, Random(f"{options.seed}/{package}"))  # noqa: S311
        words = [str(ROOT / "tests" / t) for t in tests]
        if options.only is not None:
            mutant = found[options.only]
            print(mutant, flush=True)
            code = ended(lambda m=mutant, w=words: tested(m, w), HOUR)
            print("killed" if code or code is None else "survived")
            continue
        known = _known(again=options.again)
        _judge([m for m in found if m.key not in known], files, words)
        _show(package, found, places)


def _judge(mutants: list[Mutant], files: list[Path], words: list[str]) -> None:
    """Faults inside functions together, then the others one by one."""
    inside = [m for m in mutants if changes(m) is not None]
    if inside:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "reached.json"
            code = ended(lambda: _quiet(inside, files, words, store), 24 * HOUR)
        if code != 0:
            sys.exit(f"{' '.join(words)}: failed without a mutant, or the harness did: {LOG}")
    others = [m for m in mutants if m not in inside]
    for mutant in others:
        code = ended(lambda m=mutant: _fresh(m, words), HOUR)
        _note(mutant, "hung" if code is None else "killed" if code else "survived")


def _quiet(mutants: list[Mutant], files: list[Path], words: list[str], store: Path) -> int:
    redirect(LOG)
    return judge(mutants, files, words, store, lambda number, outcome: _note(mutants[number], outcome))


def _fresh(mutant: Mutant, words: list[str]) -> int:
    redirect(LOG)
    return tested(mutant, words)


def _note(mutant: Mutant, outcome: str) -> None:
    line = {"key": mutant.key, "outcome": outcome, "mutant": str(mutant), "operator": mutant.operator}
    JUDGED.parent.mkdir(exist_ok=True)
    with JUDGED.open("a", encoding="utf-8") as out:
        out.write(json.dumps({**line, "at": time.strftime("%H:%M:%S")}) + "\n")


def _known(*, again: bool) -> dict[str, str]:
    """Outcomes by key; of `again` those that are no survivors'."""
    lines = JUDGED.read_text("utf-8").splitlines() if JUDGED.exists() else []
    found = {entry["key"]: entry["outcome"] for entry in map(json.loads, lines)}
    return {k: o for k, o in found.items() if not again or o in {"killed", "hung"}}


def _show(package: str, found: list[Mutant], places: int) -> None:
    known = _known(again=False)
    for number, mutant in enumerate(found):
        if known[mutant.key] not in {"killed", "hung"}:
            print(f"{package} {number}, {known[mutant.key]}: {mutant} ({mutant.operator})")
    tally = Counter(known[m.key] for m in found)
    alive = tally["survived"] + tally["not reached"]
    print(f"| {package} | {places} | {len(found)} | {len(found) - alive} | {alive} |", flush=True)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else list(path.glob("*.py"))


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", choices=list(PACKAGES))
    parser.add_argument("--count", type=int, default=40, help="mutants per package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one mutant, by its number")
    parser.add_argument("--again", action="store_true", help="judge survivors anew, after a test was added")
    return parser.parse_args()


if __name__ == "__main__":
    main()
