"""Mask and Understand, table 1: MNIST, five convolutions, every layer cut alike, no fine-tuning and two epochs of it.

    python scripts/mnist_alexnet5.py --root PATH    (PATH holds MNIST/raw)

Trains the network if `runs/mnist-alexnet5-train/model.safetensors` is missing, measures, and copies tables and figures
to docs/results. An interrupted run goes on where it was.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

RATES = "0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"
CRITERIA = "influence,gate,magnitude,random"
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def infprune(*words: str) -> None:
    print("$ infprune", " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", "infprune", *words], check=True)


def keep(folder: str, name: str) -> None:
    for kind in ("md", "png", "json"):
        shutil.copy(Path(folder) / f"report.{kind}", RESULTS / f"{name}.{kind}")
    print((RESULTS / f"{name}.md").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", default="3")
    words = parser.parse_args()
    root = f"data.root={words.root}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not Path("runs/mnist-alexnet5-train/model.safetensors").exists():
        infprune("train", "-c", "mnist-alexnet5", root, "run.dir=runs/mnist-alexnet5-train", "--resume")
    plain, tuned = "runs/mnist-alexnet5-report", "runs/mnist-alexnet5-report-finetuned"
    grid = ["--rates", RATES, "--resume", "-c", "mnist-alexnet5", root]
    infprune("report", *grid, "--criteria", CRITERIA, "--seeds", words.seeds, f"run.dir={plain}")
    keep(plain, "mnist-alexnet5")
    infprune("report", *grid, "--criteria", "influence", "--seeds", "1", "--finetune", f"run.dir={tuned}")
    keep(tuned, "mnist-alexnet5-finetuned")


if __name__ == "__main__":
    main()
