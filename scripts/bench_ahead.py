"""What reading images ahead saves: wall seconds of one pass with `inf-cp` over JPEG folders, with and without.

    python scripts/bench_ahead.py --core 1          # on one core; without --core on all that the process may use

Random images, written as JPEG into a temporary folder; ResNet-20. Pairs, in turn; writes docs/results/reading-ahead.md.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_speed import spread
from PIL import Image

from infprune import selection
from infprune.coupling.couple import couple
from infprune.data import DATASETS, loaders
from infprune.data.dataset import DataRequest
from infprune.files import atomic_write
from infprune.models.build import build
from infprune.scores.measure import collect, needs_of

RESULTS = Path(__file__).parents[1] / "docs" / "results"
CASES = {"32 x 32": (32, 256), "500 x 375, shorter side to 32": (500, 128)}  # width in pixels, samples
BATCH = 32


def written(folder: Path, width: int, samples: int) -> None:
    """Two classes of random images with some structure, in train and test."""
    generator = torch.Generator().manual_seed(0)
    height = width if width == 32 else width * 3 // 4
    for part, count in (("train", samples), ("test", 2)):
        for i in range(count):
            path = folder / part / "ab"[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
            image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
            Image.fromarray((image * 255).byte().movedim(0, -1).contiguous().numpy()).save(path, quality=90)


def measured(width: int, samples: int, runs: int) -> dict[str, list[float]]:
    """Wall and CPU seconds of passes with and without, in turn; the first of each warms up."""
    with tempfile.TemporaryDirectory() as name:
        written(Path(name), width, samples)
        args = {"cache": False} | ({} if width == 32 else {"size": 32})
        source = DATASETS["image_folder"](DataRequest("image_folder", Path(name), download=False, args=args))
        module = build("resnet20", None, {}).eval()
        layers = selection.prunable(couple(module, torch.randn(2, 3, 32, 32)))
        found: dict[str, list[float]] = {"ahead": [], "in turn": [], "ahead, CPU": [], "in turn, CPU": []}
        reading = loaders.decoded_when_read
        for run in range(runs + 1):
            for way in ("ahead", "in turn"):
                loaders.decoded_when_read = reading if way == "ahead" else lambda _: False
                start, used = time.perf_counter(), time.process_time()
                chosen = loaders.batches(source.train, BATCH)
                collect(module, layers, chosen, needs_of(["inf-cp"]), seed=0, draws=1)
                if run:
                    found[way].append(time.perf_counter() - start)
                    found[f"{way}, CPU"].append(time.process_time() - used)
        loaders.decoded_when_read = reading
    return found


def page(known: dict[str, Any]) -> str:
    lines = [
        "# Reading images ahead",
        "",
        "`python scripts/bench_ahead.py`: one pass with `inf-cp` (ResNet-20, batches of 32, one thread) over",
        "folders of JPEG images without cache, a thread decoding two batches ahead, or each batch decoded when asked",
        "for; in turn, in one process: median (least to largest). Wall seconds count what other work takes.",
        "",
        "| cores | images | n | wall ahead | in turn | in turn / ahead, by pairs | CPU ahead | in turn |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for cores, cases in known.items():
        for name, of in cases.items():
            pairs = [b / a for a, b in zip(of["ahead"], of["in turn"], strict=True)]
            cells = [spread(v) for v in (of["ahead"], of["in turn"], pairs)]
            cpu = [f"{statistics.median(of[f'{way}, CPU']):.2f}" for way in ("ahead", "in turn")]
            lines.append(f"| {cores} | {name} | {len(pairs)} | {' | '.join([*cells, *cpu])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, help="the only one to run on (Linux)")
    parser.add_argument("--runs", type=int, default=7)
    chosen = parser.parse_args()
    if chosen.core is not None:
        os.sched_setaffinity(0, {chosen.core})
    torch.set_num_threads(1)
    path = RESULTS / "reading-ahead.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    cores = str(len(os.sched_getaffinity(0)))
    for name, (width, samples) in CASES.items():
        known.setdefault(cores, {})[name] = measured(width, samples, chosen.runs)
        atomic_write(path, json.dumps(known, indent=1) + "\n")
        atomic_write(RESULTS / "reading-ahead.md", page(known))
    print(page(known))


if __name__ == "__main__":
    main()
