"""Bad input by the thousand: every case must end in the contract's exit code and one clear line.

    python scripts/fuzz.py --cases 5000 --seed 0

A case is a command on a damaged configuration, checkpoint, scores file, training state, image folder, ...; it depends
on the seed and its number alone: `--only 1234` repeats one. What must hold, whatever the input (`fuzzing/case.py`):
exit code 0, 2, 3, 4, 5 or 6; one line on stderr (one per fault of a configuration), no traceback, no control
characters; nothing on stderr after success; with --json one JSON object; at most 30 s and 1 GiB; nothing executed; no
existing file changed by a command that fails; no temporary file left. A flipped bit of a weight in a file of ours must
be refused.
Cases run in forked processes of limited address space.
Exits 1 if anything did not hold. Linux only.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from fuzzing import KINDS, REFUSED
from fuzzing.case import CODES, Outcome, run
from fuzzing.forked import each
from fuzzing.stock import stock

BATCH = 100  # cases per process
SHARES = {"configuration": 8, "words": 6, "checkpoint": 4, "pruned file": 6, "images": 2, "LIBSVM": 2}  # else 1: slower


def main() -> None:
    options = _parsed()
    stock()
    numbers = range(options.cases) if options.only is None else [options.only]
    kinds = [options.kind] if options.kind else [name for name in KINDS for _ in range(SHARES.get(name, 1))]
    began = time.monotonic()
    counts: Counter[tuple[str, int]] = Counter()
    bad = 0

    def kind_of(number: int) -> str:
        return kinds[number % len(kinds)]

    with tempfile.TemporaryDirectory() as folder:

        def work(number: int) -> Outcome:
            return case(Path(folder), kind_of(number), options.seed, number, told=options.only is not None)

        for number, outcome in each(work, numbers, BATCH):
            counts[kind_of(number), outcome.code] += 1
            if outcome.faults:
                bad += 1
                print(f"{kind_of(number)}, case {number}: {'; '.join(outcome.faults)[:600]}", flush=True)
            if options.only is not None:
                print(outcome)
    print(table(counts))
    print(f"\n{len(numbers)} cases, seed {options.seed}, {time.monotonic() - began:.0f} s; {bad} did not hold")
    sys.exit(bad > 0)


def case(folder: Path, kind: str, seed: int, number: int, *, told: bool = False) -> Outcome:
    """Make and run one case in an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    here = Path.cwd()
    os.chdir(folder)
    try:
        words = KINDS[kind](Random(f"{seed}/{kind}/{number}"))  # noqa: S311
        if told:
            print(words)
        return run(words, refused=kind in REFUSED)
    finally:
        os.chdir(here)


def table(counts: Counter[tuple[str, int]]) -> str:
    """Cases by kind and exit code, as Markdown."""
    codes = sorted({code for _, code in counts} | set(CODES))
    lines = ["| input | cases | " + " | ".join(f"exit {code}" for code in codes) + " |"]
    lines.append("|---|---:|" + "---:|" * len(codes))
    for kind in dict.fromkeys(kind for kind in KINDS if any(k == kind for k, _ in counts)):
        row = [counts[kind, code] for code in codes]
        lines.append(f"| {kind} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--only", type=int, help="one case, and what came of it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
