"""Which samples to keep, in the one case that has a theory: teacher and student perceptrons, pruned by a probe.

    python scripts/perceptron.py --dimension 200 --seeds 10

Inputs x of N independent standard normal numbers, labels sign(T.x) of a teacher T. A probe at an angle to the teacher
gives every sample a margin |J.x|; a share of the samples is kept: the hard ones (small margin), the easy ones, or
random ones. The student is the perceptron of maximal margin on what was kept, found exactly; its test error is
arccos(overlap with the teacher) / pi. Probes: `0` is the teacher itself, `40` a vector at 40 degrees drawn without a
look at the data, `hebb` one gradient step on the very data that are then pruned.

Theory, for N and the number of samples to infinity in a fixed ratio (alpha_tot samples per dimension before pruning):
the student is a T + b s + c u with s the probe's part at right angles to T, u at right angles to both. By Gordon's
comparison of Gaussian processes a margin kappa is reached if and only if, for some a^2 + b^2 + c^2 = 1,

    alpha E (kappa - y (a t + b s) - c xi)_+^2  <=  c^2,        alpha = kept share * alpha_tot,

with t = T.x and s of a *kept* sample, y = sign(t), xi standard normal and independent. The largest such kappa gives a,
and the error is arccos(a) / pi. For a probe that is the teacher this is the setting of Sorscher et al. (2022). A probe
that saw the data (`hebb`) has no curve: kept samples are then not independent given their margin.

Writes docs/results/perceptron-pruning.md, .json and .png; an interrupted run goes on where it was.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar, nnls
from scipy.stats import norm

from infprune.files import atomic_write
from infprune.pipeline.store import Store

RESULTS = Path(__file__).parents[1] / "docs" / "results"
KEEP = ("hard", "easy", "random")
Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--alphas", default="1,2,4,8,16", help="samples per dimension before pruning")
    parser.add_argument("--kept", default="0.1,0.2,0.3,0.4,0.6,0.8,1")
    parser.add_argument("--probes", default="0,40,hebb")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    alphas, kept = ([float(v) for v in text.split(",")] for text in (chosen.alphas, chosen.kept))
    probes = chosen.probes.split(",")
    store = Store(
        Path(f"runs/perceptron-{chosen.dimension}.json"), f"perceptron {chosen.dimension} pruning 2", resume=True
    )
    rows = []
    for probe in probes:
        for alpha in alphas:
            for share in kept:
                rows += [row(store, chosen, probe, alpha, share, keep) for keep in KEEP]
            print(f"probe {probe}, {alpha:g} samples per dimension: done", flush=True)
    write(chosen, rows, alphas, kept, probes)


def row(store: Store, chosen: argparse.Namespace, probe: str, alpha: float, share: float, keep: str) -> dict[str, Any]:
    """Mean and spread of the simulated test error over seeds, and the theory's value where there is one."""
    key = f"{probe}/{alpha:g}/{share:g}/{keep}/{chosen.seeds}"
    if store.get(key) is None:
        runs = [simulated(chosen.dimension, alpha, share, keep, probe, seed) for seed in range(chosen.seeds)]
        store.put(key, runs)
    errors = store.get(key)
    curve = f"curve/{probe}/{alpha:g}/{share:g}/{keep}"
    if probe != "hebb" and store.get(curve) is None:
        store.put(curve, theory(share * alpha, share, keep, float(probe)))
    spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
    told = {"probe": probe, "alpha": alpha, "kept": share, "keep": keep, "n": len(errors)}
    return {**told, "error": statistics.mean(errors), "spread": spread, "theory": store.get(curve)}


def simulated(dimension: int, alpha: float, share: float, keep: str, probe: str, seed: int) -> float:
    """Test error of the student of maximal margin on the samples kept; the same data for every way to keep."""
    random = np.random.default_rng(seed)
    teacher = _unit(random.standard_normal(dimension))
    x = random.standard_normal((round(alpha * dimension), dimension))
    y = np.sign(x @ teacher)
    across = random.standard_normal(dimension)
    across = _unit(across - (across @ teacher) * teacher)
    if probe == "hebb":
        direction = _unit(y @ x)
    else:
        angle = math.radians(float(probe))
        direction = math.cos(angle) * teacher + math.sin(angle) * across
    chosen = pruned(np.abs(x @ direction), share, keep, random)
    student = maximal_margin(x[chosen] * y[chosen, None])
    return math.acos(min(1.0, float(student @ teacher))) / math.pi


def pruned(margin: Array, share: float, keep: str, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the samples kept."""
    count = max(1, round(share * len(margin)))
    order = random.permutation(len(margin)) if keep == "random" else np.argsort(margin)
    return order[-count:] if keep == "easy" else order[:count]


def maximal_margin(z: Array) -> Array:
    """The unit vector w with the largest min_i w.z_i: least |w| with Z w >= 1, as non-negative least squares.

    Lawson and Hanson's least distance programming: the residual r of min |(Z, 1)^T u - e_last|, u >= 0, is the answer
    up to its length.
    """
    E = np.vstack([z.T, np.ones(len(z))])
    target = np.zeros(len(E))
    target[-1] = 1
    u, _ = nnls(E, target, maxiter=50 * len(z))
    r = E @ u - target
    w = -r[:-1] / r[-1]
    if float((z @ w).min()) < 1 - 1e-6:
        raise ArithmeticError(f"margin {float((z @ w).min()):.6f} of 1: not separated")
    return _unit(w)


def theory(alpha: float, share: float, keep: str, angle: float) -> float:
    """The test error for infinite dimension, `alpha` samples kept per dimension (see the head of this file)."""
    t, s, weight = _fields(share, keep, math.radians(angle))
    if angle == 0:
        found = minimize_scalar(lambda a: -_margin(alpha, a * t, weight, 1 - a * a), bounds=(0, 1 - 1e-9))
        return math.acos(float(found.x)) / math.pi

    def loss(at: Array) -> float:
        a, b = at
        return -_margin(alpha, a * t + b * s, weight, 1 - a * a - b * b) if a * a + b * b < 1 else 10.0 + a * a + b * b

    found = minimize(loss, np.array([0.6, 0.1]), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9})
    return math.acos(float(found.x[0])) / math.pi


def _fields(share: float, keep: str, angle: float) -> tuple[Array, Array, Array]:
    """Nodes of y t and y s of a kept sample, with weights that sum to one; by symmetry the probe's is positive."""
    low, high = {"hard": (0.0, share), "easy": (1 - share, 1.0), "random": (0.0, 1.0)}[keep]
    nodes, weight = _gauss(np.array([low]), np.array([high]), 48)
    p = norm.ppf(0.5 + 0.5 * nodes[0])  # quantiles of the absolute value of the probe's field
    weight = weight[0] / (high - low)
    if angle == 0:
        return p, np.zeros_like(p), weight
    flip = norm.cdf(-p / math.tan(angle))  # where the label changes, and the integrand jumps
    parts = [_gauss(np.zeros_like(flip), flip, 24), _gauss(flip, np.ones_like(flip), 24)]
    e, inner = norm.ppf(np.hstack([n for n, _ in parts])), np.hstack([w for _, w in parts])
    t = math.cos(angle) * p[:, None] + math.sin(angle) * e
    s = math.sin(angle) * p[:, None] - math.cos(angle) * e
    y = np.sign(t)
    return (y * t).ravel(), (y * s).ravel(), (weight[:, None] * inner).ravel()


def _gauss(low: Array, high: Array, count: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss and Legendre on intervals: `(len(low), count)` each."""
    nodes, weight = np.polynomial.legendre.leggauss(count)
    width = (high - low)[:, None] / 2
    return low[:, None] + width * (nodes + 1), width * weight


def _margin(alpha: float, m: Array, weight: Array, c2: float) -> float:
    """The kappa with alpha E (kappa - m - c xi)_+^2 = c^2, by Newton's method: the left side rises and is convex."""
    c, kappa = math.sqrt(c2), float(m @ weight) + 3.0
    for _ in range(60):
        d = (kappa - m) / c
        cdf, pdf = norm.cdf(d), norm.pdf(d)
        value = alpha * float(weight @ ((d * d + 1) * cdf + d * pdf)) - 1
        step = value / (2 * alpha * float(weight @ (d * cdf + pdf)) / c)
        kappa -= step
        if abs(step) < 1e-10:
            break
    return kappa


def _unit(v: Array) -> Array:
    return v / np.linalg.norm(v)


def write(
    chosen: argparse.Namespace, rows: list[dict[str, Any]], alphas: list[float], kept: list[float], probes: list[str]
) -> None:
    command = f"python scripts/perceptron.py --dimension {chosen.dimension} --seeds {chosen.seeds}"
    command += f" --alphas {chosen.alphas} --kept {chosen.kept} --probes {chosen.probes}"
    at = {(r["probe"], r["alpha"], r["kept"], r["keep"]): r for r in rows}
    gaps = [abs(r["error"] - r["theory"]) for r in rows if r["theory"] is not None]
    lines = [
        "# Teacher and student perceptrons: which samples to keep",
        "",
        f"`{command}`",
        "",
        f"{chosen.dimension} dimensions, {chosen.seeds} seeds (of teacher, data and probe). Cells: test error in %",
        "of the perceptron of maximal margin on the samples kept, mean (sample standard deviation) over seeds, and",
        "behind `|` the theory for infinite dimension. Bold: the best of the three by more than both spreads.",
        f"Theory against simulation, all {len(gaps)} cells that have both: mean difference "
        f"{100 * statistics.mean(gaps):.2f} points, largest {100 * max(gaps):.2f}."
        if gaps
        else "",
        "The curve is our own derivation (Gordon's comparison, in the head of the script), not the replica calculation",
        "of Sorscher et al. (2022); where the probe is the teacher it describes the same setting.",
        "",
        "![error against the share kept, and the crossover](perceptron-pruning.png)",
    ]
    for probe in probes:
        lines += ["", f"## {_named(probe)}", "", *crossover(at, probe, alphas, kept)]
        for alpha in alphas:
            lines += [
                "",
                f"{alpha:g} samples per dimension:",
                "",
                "| kept | hard | easy | random |",
                "|---:|---:|---:|---:|",
            ]
            for share in kept:
                three = [at[probe, alpha, share, keep] for keep in KEEP]
                lines.append(f"| {share:.0%} | " + " | ".join(_cell(r, three) for r in three) + " |")
    atomic_write(chosen.output / "perceptron-pruning.md", "\n".join(lines) + "\n")
    atomic_write(chosen.output / "perceptron-pruning.json", json.dumps({"command": command, "rows": rows}, indent=1))
    atomic_write(chosen.output / "perceptron-pruning.png", drawn(at, probes, alphas, kept))
    print("\n".join(lines[:14]))


def crossover(at: dict[Any, Any], probe: str, alphas: list[float], kept: list[float]) -> list[str]:
    """Where hard beats easy and random, in words: by the mean over seeds."""
    told = []
    for alpha in alphas:
        some = [share for share in kept if share < 1]
        best = [min(KEEP, key=lambda k, s=share, a=alpha: at[probe, a, s, k]["error"]) for share in some]
        told.append(
            f"- {alpha:g} samples per dimension: best at "
            + ", ".join(f"{s:.0%} {b}" for s, b in zip(some, best, strict=True))
        )
    return told


def _named(probe: str) -> str:
    if probe == "hebb":
        return "Probe: one gradient step on the same data"
    return "Probe: the teacher itself" if float(probe) == 0 else f"Probe: {probe} degrees from the teacher"


def _cell(r: dict[str, Any], three: list[dict[str, Any]]) -> str:
    others = [o for o in three if o is not r]
    best = all(r["error"] + max(r["spread"], o["spread"]) < o["error"] for o in others)
    text = f"{100 * r['error']:.2f} ({100 * r['spread']:.2f})"
    theory = "" if r["theory"] is None else f" \\| {100 * r['theory']:.2f}"
    return (f"**{text}**" if best else text) + theory


def drawn(at: dict[Any, Any], probes: list[str], alphas: list[float], kept: list[float]) -> bytes:
    """A row per probe: error against the share kept at three amounts of data, then hard against easy over them all."""
    import io  # noqa: PLC0415

    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = sorted({alphas[0], alphas[len(alphas) // 2], alphas[-1]})
    figure, grid = plt.subplots(
        len(probes),
        len(shown) + 1,
        figsize=(3.6 * (len(shown) + 1), 3 * len(probes)),
        layout="constrained",
        squeeze=False,
    )
    colours = dict(zip(KEEP, ("#D55E00", "#0072B2", "#7c858f"), strict=True))
    for axes, probe in zip(grid, probes, strict=True):
        for axis, alpha in zip(axes, shown, strict=False):
            for keep in KEEP:
                rows = [at[probe, alpha, share, keep] for share in kept]
                style = {"color": colours[keep], "label": keep}
                axis.errorbar(
                    kept, [100 * r["error"] for r in rows], [100 * r["spread"] for r in rows], fmt="o", ms=4, **style
                )
                if rows[0]["theory"] is not None:
                    axis.plot(kept, [100 * r["theory"] for r in rows], color=colours[keep], linewidth=1)
            axis.set(
                xlabel="share kept", yscale="log", title=f"{alpha:g} samples per dimension", ylabel="test error (%)"
            )
        for share, shade in zip(
            [s for s in kept if s < 1][::2], ("#000000", "#777777", "#bbbbbb", "#dddddd"), strict=False
        ):
            pairs = [(at[probe, a, share, "easy"], at[probe, a, share, "hard"]) for a in alphas]
            axes[-1].plot(
                alphas,
                [100 * (e["error"] - h["error"]) for e, h in pairs],
                "o",
                color=shade,
                ms=4,
                label=f"{share:.0%} kept",
            )
            if pairs[0][0]["theory"] is not None:
                axes[-1].plot(alphas, [100 * (e["theory"] - h["theory"]) for e, h in pairs], color=shade, linewidth=1)
        axes[-1].axhline(0, color="black", linewidth=0.8, linestyle=":")
        axes[-1].set(
            xscale="log", xlabel="samples per dimension", ylabel="error, easy minus hard (points)", title=_named(probe)
        )
        axes[-1].legend(fontsize=7)
        axes[0].legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    main()
