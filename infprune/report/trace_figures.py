"""Figures of traces: how influence is distributed (MS figures 6 and 7), and against a control (figures 2, 4 and 5)."""

import math
from collections.abc import Mapping, Sequence

from infprune.pipeline.trace_results import Traced
from infprune.report.axes import SHAPES, fitted, frame, legend, marker
from infprune.report.scene import WIDTH, Area, Label, Line, Scene, box

BINS = 40
TAIL = 0.005  # of the examples at either end that fall into the last bins, so that a few do not flatten the rest
PLOTTED = 1500  # points of a scatter plot, those at either end among them


def trace_scenes(traced: Traced) -> list[Scene]:
    """Both figures of one trace."""
    values = [row.influence for row in traced.everything]
    control = [row.identity for row in traced.everything]
    r = traced.result.identity_r
    told = "" if r is None else f" Pearson's r = {r:.2f}."
    step = max(1, len(values) // PLOTTED)
    some = sorted({*range(0, len(values), step), *range(min(100, len(values)))})
    points = [(control[i], values[i], f"sample {traced.everything[i].sample}") for i in some]
    return [
        histogram("distribution", "Influence of pretraining examples", {"examples": values}),
        scatter(
            "identity",
            "Influence against the identity control",
            f"Every inverse Hessian replaced by the identity, across.{told}",
            points,
            ("identity control", "influence"),
        ),
    ]


def histogram(name: str, title: str, series: Mapping[str, Sequence[float]]) -> Scene:
    """How many examples have which influence, a curve of steps per series; shares of each series' examples."""
    together = sorted(v for values in series.values() for v in values)
    cut = int(TAIL * len(together))
    low, high = together[cut], together[len(together) - 1 - cut]
    if low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    width = (high - low) / BINS
    counts = {key: _counted(values, low, width) for key, values in series.items()}
    roles = {key: f"c{i % 8}" for i, key in enumerate(series)}
    told = [("square", roles[key], f"{key}: mean |influence| {_mean_abs(v):.3g}") for key, v in series.items()]
    marks, top = legend(told, 4)
    x = fitted([low, high], 56, WIDTH - 16)
    y = fitted([0.0, *(share for found in counts.values() for share in found)], top + 226, top + 6)
    body: list[Line | Area | Label] = [*frame(x, y, "influence", "share of the examples"), *marks]
    for key, found in counts.items():
        if len(series) == 1:
            for i, share in enumerate(found):
                left, right = x.at(low + i * width), x.at(low + (i + 1) * width)
                hint = f"{low + i * width:.3g} to {low + (i + 1) * width:.3g}: {share:.1%}"
                body.append(box(left, y.at(share), max(right - left - 1, 1), y.start - y.at(share), roles[key], hint))
        else:
            edges = [(x.at(low + (i + j) * width), y.at(share)) for i, share in enumerate(found) for j in (0, 1)]
            body.append(Line([(edges[0][0], y.start), *edges, (edges[-1][0], y.start)], roles[key], 1.6))
    words = f"The outer bins hold what lies beyond them: {TAIL:.1%} of the examples at either end."
    return Scene(name, title, words, top + 272, body)


def scatter(
    name: str, title: str, words: str, points: Sequence[tuple[float, float, str]], labels: tuple[str, str]
) -> Scene:
    """One value against another, with a hint per point."""
    x = fitted([p[0] for p in points], 64, WIDTH - 24)
    y = fitted([p[1] for p in points], 240, 12)
    body: list[Line | Area | Label] = [*frame(x, y, *labels)]
    body += [marker(SHAPES[0], (x.at(a), y.at(b)), "c0", f"{hint}: {a:.4g}, {b:.4g}") for a, b, hint in points]
    return Scene(name, title, words, 286, body)


def _counted(values: Sequence[float], low: float, width: float) -> list[float]:
    found = [0] * BINS
    for v in values:
        found[min(max(math.floor((v - low) / width), 0), BINS - 1)] += 1
    return [count / len(values) for count in found]


def _mean_abs(values: Sequence[float]) -> float:
    return sum(map(abs, values)) / len(values)
