"""ResNet-56 on CIFAR-10 as image folders: score once per criterion, prune at several rates, evaluate.

    python scripts/cifar_resnet56.py --root PATH --checkpoint FILE    (PATH holds train/ and test/)

Copies the table and the figure to docs/results.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--model", default="resnet56", choices=["resnet20", "resnet56"])
    parser.add_argument("--rates", default="0.3,0.5")
    parser.add_argument("--criteria", default="influence,gate,magnitude,random")
    parser.add_argument("--seeds", default="1")
    words = parser.parse_args()
    folder = Path(f"runs/cifar10-{words.model}-report")
    command = ["report", "-c", f"cifar10-{words.model}", "--resume"]
    command += [
        "--rates",
        words.rates,
        "--criteria",
        words.criteria,
        "--seeds",
        words.seeds,
        f"data.root={words.root}",
        f"model.checkpoint={words.checkpoint}",
    ]
    print("$ infprune", " ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", "infprune", *command, f"run.dir={folder}"], check=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for kind in ("md", "png", "json"):
        shutil.copy(folder / f"report.{kind}", RESULTS / f"cifar10-{words.model}.{kind}")
    print((RESULTS / f"cifar10-{words.model}.md").read_text())


if __name__ == "__main__":
    main()
