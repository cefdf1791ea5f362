"""The experiments of *Mask and Understand*, sections 5.1, 5.2 and 5.4, and the figures of docs/theory.md.

    python scripts/mask_and_understand.py splice data.root=PATH
    python scripts/mask_and_understand.py one-hot data.root=PATH
    python scripts/mask_and_understand.py breast-cancer
    python scripts/mask_and_understand.py features data.root=PATH
    python scripts/mask_and_understand.py layers data.root=PATH --five FILE --eleven FILE
    python scripts/mask_and_understand.py row-sums data.root=PATH

PATH holds libsvm/splice_scale, libsvm/splice_scale.t and MNIST/raw; the FILEs are alexnet5 and alexnet11 as `infprune
train` writes them. Tables, JSON and figures go to docs/results.
"""

import argparse
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import torch
from scipy.stats import spearmanr

from infprune import config
from infprune.files import atomic_write
from infprune.influence.groups import random_groups
from infprune.pipeline import features, layers, validate
from infprune.pipeline.influence_results import FeaturesResult, InfluenceRow
from infprune.pipeline.instrument import open_problem, through_weights
from infprune.pipeline.stopwatch import Stopwatch
from infprune.progress import Silent
from infprune.report.as_json import to_json
from infprune.report.influence_figures import features_png, layers_png, loss_png, scatter_png
from infprune.report.influence_tables import layers_markdown, validate_markdown

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAIRS = ((0, 8), (1, 4), (1, 7))
PAPER = {  # section 5.2; the text names neither damping nor scale
    "alexnet5": (0.2150, 0.3208, 0.5389, 0.9702, 0.9852),
    "alexnet11": (0.0957, 0.1400, 0.2272, 0.3751, 0.2340, 0.0989, 0.0927, 0.1027, 0.1053, 0.1042, 0.1209),
}
ONE_HOT = ["data.args.one_hot=[-1, -0.333333, 0.333333, 1]", "model.args.in_features=240"]
SPACES = {
    "gates": ["influence.space=gates", "data.calibration=2048"],
    "Kronecker blocks": [
        "influence.space=weights",
        "influence.curvature=kfac",
        "influence.damping=1e-3",
        "data.calibration=2048",
    ],
}


def compared(name: str, words: Sequence[str]) -> None:
    base = "splice" if name == "one-hot" else name
    chosen = [*(ONE_HOT if name == "one-hot" else []), *words, f"run.dir=runs/validate-{name}"]
    made = validate.run(config.load(base, chosen), Silent(), resume=True)
    said = f"`python scripts/mask_and_understand.py {name}`: {made.result.rows[0].groups} or fewer groups per size.\n\n"
    title, rest = validate_markdown(made.result).split("\n\n", 1)
    atomic_write(RESULTS / f"validate-{name}.md", f"{title}\n\n{said}{rest}")
    atomic_write(RESULTS / f"validate-{name}.json", to_json(made.result))
    atomic_write(RESULTS / f"validate-{name}-parameters.png", scatter_png(made.panels, made.result.rows))
    atomic_write(RESULTS / f"validate-{name}-loss.png", loss_png(made.panels, made.result.rows))
    print(f"{title}\n\n{said}{rest}")


def mapped(words: Sequence[str]) -> None:
    found: list[FeaturesResult] = []
    for a, b in PAIRS:
        pair = [f"data.args.classes=[{a}, {b}]", f"run.dir=runs/features-{a}-{b}"]
        found.append(features.run(config.load("mnist-pairs", [*words, *pair]), Silent()))
        print(f"{a} against {b}: test accuracy {found[-1].accuracy:.4f}", flush=True)
    titles = [f"{a} and {b}: test accuracy {100 * f.accuracy:.2f} %" for (a, b), f in zip(PAIRS, found, strict=True)]
    atomic_write(RESULTS / "features-mnist.png", features_png(found, titles))
    atomic_write(RESULTS / "features-mnist.json", json.dumps([asdict(f) for f in found], indent=1))


def layered(words: Sequence[str], files: dict[str, str]) -> None:
    text = [
        "# Influence of layers on MNIST",
        "",
        "`python scripts/mask_and_understand.py layers data.root=PATH --five FILE --eleven FILE`. Spearman's",
        "correlation of the convolutions' influence with the numbers printed in *Mask and Understand*, section 5.2,",
        "whose text gives neither damping nor scale, and with the measured loss once a layer is closed and nothing",
        "adapts. One network each, one seed.",
        "",
        "| network | space | with the print | with the measured loss | measured with the print |",
        "|---|---|---:|---:|---:|",
    ]
    tables = []
    for name, file in files.items():
        for space, chosen in SPACES.items():
            slug = f"layers-{name}-{space.split()[0].lower()}"
            settings = ["model.args={}", f"model.name={name}", f"model.checkpoint={file}", f"run.dir=runs/{slug}"]
            result = layers.run(config.load("mnist-alexnet5", [*words, *settings, *chosen]), Silent())
            atomic_write(RESULTS / f"{slug}.json", to_json(result))
            atomic_write(RESULTS / f"{slug}.png", layers_png(result))
            convolutions = [r for r in result.rows if r.name.startswith("features")]
            text.append(
                f"| {name} | {space} | " + " | ".join(f"{r:.2f}" for r in ranks(convolutions, PAPER[name])) + " |"
            )
            tables += ["", layers_markdown(result).replace("# ", f"## {space}: ", 1), f"![{slug}]({slug}.png)"]
            print("\n".join(tables[-3:]), flush=True)
    atomic_write(RESULTS / "layers.md", "\n".join(text + tables) + "\n")
    print("\n".join(text))


def ranks(rows: Sequence[InfluenceRow], paper: Sequence[float]) -> tuple[float, float, float]:
    influence, measured = [r.influence for r in rows], [r.frozen_loss for r in rows]
    pairs = ((influence, paper), (influence, measured), (measured, paper))
    return tuple(float(spearmanr(a, b).statistic) for a, b in pairs)  # type: ignore[return-value]


def row_sums(words: Sequence[str]) -> None:
    """Why the printed form fails: its row sums, and its loss change over the exact one, on one-hot splice."""
    lens = through_weights(open_problem(config.load("splice", [*ONE_HOT, *words]), "row-sums", Stopwatch(), fit=True))
    inverse = lens.quadratic.inverse
    assert inverse is not None
    shares = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for share in shares:
        groups = [g.positions for g in random_groups(len(inverse), share, 200, 0)]
        blocks = [inverse[S[:, None], S] for S in groups]
        sums = torch.cat([A.sum(1) / A.diagonal() for A in blocks])
        left.scatter([100 * share] * len(sums), sums, s=3, alpha=0.2, color="#0072B2", linewidths=0)
        ratio = [lens.removal(S, "paper").change / lens.removal(S, "block").change for S in groups]
        right.scatter([100 * share] * len(ratio), ratio, s=6, alpha=0.4, color="#D55E00", linewidths=0)
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="removed (%)", ylabel="row sum of $[H^{-1}]_{SS}$ / its diagonal entry")
    right.axhline(1, color="black", linewidth=0.8)
    right.set(xlabel="removed (%)", ylabel="loss change as printed / exact block", yscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    atomic_write(RESULTS / "row-sums.png", buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("splice", "one-hot", "breast-cancer", "features", "layers", "row-sums"))
    parser.add_argument("--five", default="runs/mnist-alexnet5-train/model.safetensors")
    parser.add_argument("--eleven", default="runs/mnist-alexnet11-train/model.safetensors")
    known, words = parser.parse_known_args()
    run: dict[str, Callable[[], None]] = {
        "features": lambda: mapped(words),
        "layers": lambda: layered(words, {"alexnet5": known.five, "alexnet11": known.eleven}),
        "row-sums": lambda: row_sums(words),
    }
    run.get(known.what, lambda: compared(known.what, words))()


if __name__ == "__main__":
    main()
