"""Couple, plan, cut and prove half of the channels of many networks, each in a process of its own.

    python scripts/networks.py [NAME ...]    (random weights, the network's own input size; half an hour on two cores)

Names are those of `model.name`; without any, the whole list: torchvision's families, and timm's if it is installed.
Writes docs/results/networks.md (only without names). Exit code 1 if a proof fails or a network cannot be cut.
"""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch

from infprune import cost
from infprune.models.attention import explicit
from infprune.models.build import build
from infprune.proof import prove
from infprune.scores.contract import ChannelScores
from infprune.selection import Budget, Limits, select
from infprune.surgery import cut
from infprune.trial import settle

TORCHVISION = {
    **dict.fromkeys(("alexnet", "vgg16_bn", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121"), 224),
    **dict.fromkeys(("googlenet", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0"), 224),
    **dict.fromkeys(("shufflenet_v2_x1_0", "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf"), 224),
    **dict.fromkeys(("convnext_tiny", "vit_b_16", "swin_t", "maxvit_t"), 224),
    "swin_v2_t": 256,
    "inception_v3": 299,
    "efficientnet_v2_s": 384,
}
TIMM = {
    **dict.fromkeys(("vit_tiny_patch16_224", "deit3_small_patch16_224", "cait_xxs24_224", "pit_ti_224"), 224),
    **dict.fromkeys(("mixer_s32_224", "resmlp_12_224", "convmixer_768_32", "poolformer_s12", "convnextv2_atto"), 224),
    **dict.fromkeys(("resnetv2_50", "res2net50_26w_4s", "ghostnet_100", "fasternet_t0", "repvgg_a0"), 224),
    **dict.fromkeys(("mobileone_s0", "nfnet_l0", "dpn68", "starnet_s1", "hrnet_w18_small", "levit_128"), 224),
    **dict.fromkeys(("edgenext_small", "mobilevit_s", "xcit_nano_12_p16_224", "coatnet_nano_rw_224"), 224),
}
SIZES = {f"torchvision:{n}": s for n, s in TORCHVISION.items()} | {f"timm:{n}": s for n, s in TIMM.items()}
COLUMNS = (
    "network | channels | prunable | inexact | graph (s) | plan (s) | surgery (s) | proof (s) | peak (GiB) | GMACs | "
    "after | max. rel. error"
)
LIMIT = 900  # seconds for one network
JOBS = 2  # networks at a time


def measure(name: str) -> dict[str, object]:
    """All of one network: seconds by stage, costs, the error, the reasons of what is frozen."""
    torch.manual_seed(0)
    size = SIZES.get(name, 224)
    module = explicit(build(name, None, {})).eval()
    with torch.no_grad():
        for p in module.parameters():  # a branch that starts at zero would hide that its cut is wrong
            if bool((p == p.flatten()[0]).all()):
                p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(2, 3, size, size)
    marks = [time.process_time()]
    coupling = settle(module, x)
    marks.append(time.process_time())
    scores = ChannelScores("random", "none", {layer.name: torch.rand(layer.size) for layer in coupling.prunable})
    plan = select(coupling, coupling.prunable, scores, Budget(rate=0.5), Limits("global"))
    marks.append(time.process_time())
    small = cut(module, coupling, plan.masks)
    marks.append(time.process_time())
    proof = prove(module, small, coupling, plan.masks, [x, torch.rand(2, 3, size, size)])
    marks.append(time.process_time())
    return {
        "channels": sum(layer.size for layer in coupling.layers),
        "prunable": sum(layer.size for layer in coupling.prunable),
        "inexact": sum(layer.size for layer in coupling.prunable if layer.inexact),
        "seconds": [b - a for a, b in pairwise(marks)],
        "macs": [cost.count(coupling).macs, cost.count(coupling, plan.kept).macs],
        "error": proof.max_relative_error,
        "holds": proof.holds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "frozen": Counter(layer.frozen for layer in coupling.layers if layer.frozen),
        "follows": sorted({n.partition("@")[2] for n in coupling.tensors if "@" in n}),
    }


def in_own_process(name: str) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {LIMIT} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row(name: str, found: dict[str, object]) -> str:
    if "failed" in found:
        return f"| {name} | {found['failed']} |" + " |" * 10
    seconds = " | ".join(f"{s:.1f}" for s in found["seconds"])  # type: ignore[attr-defined]
    before, after = found["macs"]  # type: ignore[misc]
    counts = f"{found['channels']:,} | {found['prunable']:,} | {found['inexact']:,}"
    macs = f"{before / 1e9:.2f} | {after / 1e9:.2f}"
    return f"| {name} | {counts} | {seconds} | {found['peak']:.1f} | {macs} | {found['error']:.1e} |"


def reasons(name: str, found: dict[str, object]) -> list[str]:
    """What is frozen and why, besides the logits."""
    told = {why: n for why, n in found.get("frozen", {}).items() if "output of the network" not in why}  # type: ignore[attr-defined]
    lines = [f"  - {n} x {why.replace('|', '/')}" for why, n in sorted(told.items(), key=lambda item: -item[1])]
    shown = [*lines[:4], *([f"  - and {len(lines) - 4} more reasons of this kind"] if len(lines) > 4 else [])]
    follows = f" (follows the cut: {', '.join(found['follows'])})" if found.get("follows") else ""  # type: ignore[arg-type]
    return [f"- {name}{follows}", *shown] if shown or follows else []


def main(names: list[str]) -> None:
    chosen = names or [n for n in SIZES if not n.startswith("timm:") or importlib.util.find_spec("timm")]
    lines, told, good = [f"| {COLUMNS} |", "|---|" + "---:|" * 11], [], True
    with ThreadPoolExecutor(JOBS) as pool:
        for name, found in zip(chosen, pool.map(in_own_process, chosen), strict=True):
            good &= bool(found.get("holds"))
            lines.append(row(name, found))
            print(lines[-1], flush=True)
            told += reasons(name, found)
    print(*told, sep="\n")
    if not names:
        note = (
            "Random weights, batch 2, the network's own input size; one process for each, CPU seconds, "
            f"{torch.get_num_threads()} threads, torch {torch.__version__.partition('+')[0]}. Graph: export, coupling "
            "and trial cuts. Inexact: channels over which a norm's statistics run, so that the proof compares with "
            "that norm over the channels that stay. Peak: resident memory of the process, weights included."
        )
        text = [
            "# Networks: half of the prunable channels cut at random, and the proof",
            "`python scripts/networks.py`",
            note,
            "\n".join(lines),
            "## Frozen layers, and attributes that follow the cut",
            "Logits are frozen everywhere and not listed.",
            "\n".join(told),
        ]
        target = Path(__file__).parents[1] / "docs" / "results" / "networks.md"
        target.write_text("\n\n".join(text) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main(sys.argv[1:])
