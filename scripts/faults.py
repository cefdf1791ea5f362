"""Runs that are killed or starved: what is left must be whole, and a rerun must end as if nothing had happened.

    python scripts/faults.py --kills 200 --seed 0

Kills: `kill -9` of every command in `faulting/runs.py`, half at a random moment, half inside a write
(after a file is written and before it is renamed, or just after). Then every file opens and says what it should, and a
rerun, with or without --resume, makes the same bytes as an undisturbed run. Other faults (`faulting/scenarios.py`):
disk full, read-only folders, data that vanishes, SIGTERM and SIGINT, memory. Runs are forked from a parent that has
torch imported.
Exits 1 if anything did not hold. Linux only.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from faulting.kills import Killed, kill, truth
from faulting.runs import BASE, RUNS, run
from faulting.scenarios import SCENARIOS, Given


def main() -> None:
    options = _parsed()
    began, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = based(folder)
        names = options.commands.split(",") if options.commands else list(RUNS)
        known = {name: truth(name, base, folder) for name in names}
        print("undisturbed: " + ", ".join(f"{name} {t.seconds:.1f} s" for name, t in known.items()), flush=True)
        results: dict[str, list[Killed]] = {name: [] for name in names}
        for number in range(options.kills):
            name = names[number % len(names)]
            found = kill(name, known[name], base, folder, Random(f"{options.seed}/{number}"))  # noqa: S311
            results[name].append(found)
            bad += bool(found.faults)
            if found.faults:
                print(f"{name}, kill {number}, {found.when}: {'; '.join(found.faults)}", flush=True)
        print(kills_table(results), flush=True)
        print("\n| fault | runs | as it should |\n|---|---:|---:|")
        for name, scenario in ({} if options.commands else SCENARIOS).items():
            faults = list(scenario(Given(base, known, folder, Random(f"{options.seed}/{name}"))))  # noqa: S311
            bad += sum(fault is not None for fault in faults)
            print(f"| {name} | {len(faults)} | {faults.count(None)} |", flush=True)
            for fault in filter(None, faults):
                print(f"  {name}: {fault}", file=sys.stderr, flush=True)
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s; {bad} did not hold")
    sys.exit(bad > 0)


def based(folder: Path) -> bytes:
    """A pruned file to work on."""
    words = ("prune", "-o", BASE, "score.criterion=magnitude", "prune.scope=global", "prune.compensate=none")
    end = run(words, folder, folder / "log")
    assert end.code == 0, end.stderr
    return (folder / BASE).read_bytes()


def kills_table(results: dict[str, list[Killed]]) -> str:
    """Kills by command, as Markdown."""
    lines = [
        "| command | kills | while it ran | inside a write | temporary files left | resumed | rerun | did not hold |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, kills in results.items():
        tally = Counter(writing=0)
        for k in kills:
            tally.update(
                running=k.reached,
                writing=k.reached and k.when == "inside a write",
                left=k.temporaries,
                resumed=k.resumed,
                bad=bool(k.faults),
            )
        cells = (tally["running"], tally["writing"], tally["left"], tally["resumed"], len(kills) - tally["resumed"])
        lines.append(f"| {name} | {len(kills)} | {' | '.join(map(str, cells))} | {tally['bad']} |")
    return "\n".join(lines)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", help="comma-separated; default: all, and the other faults too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
