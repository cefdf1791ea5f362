"""Couple, cut half of the channels at random, and prove it, for torchvision's ResNet, VGG, DenseNet and MobileNetV2.

    python scripts/torchvision_models.py    (random weights, 64 x 64 inputs; a few minutes on two cores)

Writes docs/results/torchvision.md. Exit code 1 if a proof fails.
"""

import resource
import sys
import time
from pathlib import Path

import torch

from infprune import cost
from infprune.coupling.couple import couple
from infprune.models.build import build
from infprune.proof import prove
from infprune.surgery import cut

NAMES = (
    *(f"resnet{n}" for n in (18, 34, 50, 101, 152)),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "_bn")),
    *(f"densenet{n}" for n in (121, 161, 169, 201)),
    "mobilenet_v2",
)
HEADER = (
    "| network | prunable channels | couple (s) | cut (s) | prove (s) | MACs kept | params kept | max. rel. error |"
)


def row(name: str) -> tuple[str, bool]:
    torch.manual_seed(0)
    module = build(f"torchvision:{name}", None, {}).eval()
    start = time.perf_counter()
    coupling = couple(module, torch.randn(2, 3, 64, 64))
    coupled = time.perf_counter()
    masks = {layer.name: torch.rand(layer.size) < 0.5 for layer in coupling.prunable}
    for mask in masks.values():
        mask[0] = True
    small = cut(module, coupling, masks)
    done = time.perf_counter()
    proof = prove(module, small, coupling, masks, [torch.randn(2, 3, 64, 64), torch.rand(2, 3, 64, 64)])
    end = time.perf_counter()
    before = cost.count(coupling)
    after = cost.count(coupling, {n: int(mask.sum()) for n, mask in masks.items()})
    channels = sum(layer.size for layer in coupling.prunable)
    seconds = f"{coupled - start:.1f} | {done - coupled:.1f} | {end - done:.1f}"
    share = f"{after.macs / before.macs:.3f} | {after.params / before.params:.3f}"
    return f"| {name} | {channels:,} | {seconds} | {share} | {proof.max_relative_error:.1e} |", proof.holds


def main() -> None:
    lines, good = [HEADER, "|---|" + "---:|" * 7], True
    for name in NAMES:
        line, holds = row(name)
        good &= holds
        print(line, flush=True)
        lines.append(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    title = "# torchvision networks: random weights, 64 x 64, half of the channels cut at random"
    note = f"One process, {torch.get_num_threads()} threads, torch {torch.__version__}, peak memory {peak:.1f} GiB."
    target = Path(__file__).parents[1] / "docs" / "results" / "torchvision.md"
    target.write_text("\n".join([title, "", "`python scripts/torchvision_models.py`", "", note, "", *lines]) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
