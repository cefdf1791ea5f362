"""Figures of a comparison: accuracy against rate and against MACs, with the spread over seeds."""

from collections.abc import Callable

from infprune.pipeline.report_results import ReportResult, ReportRow
from infprune.pipeline.results import STAGES
from infprune.report.axes import SHAPES, Axis, fitted, frame, legend, marker
from infprune.report.figures import by_criterion, stages
from infprune.report.scene import WIDTH, Area, Label, Line, Scene

APART = 2.5  # pixels between criteria at the same rate, whose bars would hide each other


def report_scenes(result: ReportResult) -> list[Scene]:
    """Two figures per stage that was measured."""
    found = []
    for stage in stages(result):
        found.append(_scene(result, stage, "rate", "channels removed (%)", lambda row: row.rate_achieved))
        found.append(_scene(result, stage, "macs", "MACs kept (%), fewer to the right", lambda row: row.macs))
    return found


def _scene(result: ReportResult, stage: str, kind: str, label: str, across: Callable[[ReportRow], float]) -> Scene:
    named = by_criterion(result)
    styles = {name: (SHAPES[i % 8], f"c{i % 8}") for i, name in enumerate(named)}
    marks, top = legend([(*style, name) for name, style in styles.items()], 4)
    points = [(row, mean, spread) for row in result.rows if (pair := getattr(row, stage)) for mean, spread in [pair]]
    ends = (56, WIDTH - 16) if kind == "rate" else (WIDTH - 16, 56)
    x = fitted([100 * across(row) for row, _, _ in points], *ends)
    y = fitted([100 * v for _, m, s in points for v in (m - s, m + s)] + [100 * result.dense], top + 246, top + 6)
    body: list[Line | Area | Label] = [
        *frame(x, y, label, f"test accuracy, {STAGES[stage]} (%)"),
        *marks,
        Line(((x.start, y.at(100 * result.dense)), (x.end, y.at(100 * result.dense))), "ink", 1, dashed=True),
        Label(WIDTH - 18, y.at(100 * result.dense) + 13, "dense", anchor="end"),
    ]
    for i, (name, rows) in enumerate(named.items()):
        apart = APART * (i - (len(named) - 1) / 2) if kind == "rate" else 0.0
        measured = [(row, *getattr(row, stage)) for row in rows if getattr(row, stage)]
        body += _curve(measured, [x.at(100 * across(row)) + apart for row, _, _ in measured], y, *styles[name])
    seeds = result.rows[0].seeds
    spread = f"Bars: standard deviation over {seeds} seeds." if seeds > 1 else "One seed, hence no spread."
    spread += " Criteria at the same rate stand slightly apart." if kind == "rate" else ""
    against = "the share of channels removed" if kind == "rate" else "the MACs kept"
    title = f"Accuracy against {against}, {STAGES[stage]}"
    words = f"{spread} The dashed line is the dense network."
    return Scene(f"accuracy-{kind}-{stage}", title, words, top + 292, body)


def _curve(
    points: list[tuple[ReportRow, float, float]],
    across: list[float],
    y: Axis,
    shape: str,
    role: str,
) -> list[Line | Area]:
    places = [(px, y.at(100 * mean)) for px, (_, mean, _) in zip(across, points, strict=True)]
    marks: list[Line | Area] = [Line(places, role, 1.6)] if len(places) > 1 else []
    for (row, mean, spread), (px, py) in zip(points, places, strict=True):
        if spread > 0:
            low, high = y.at(100 * (mean - spread)), y.at(100 * (mean + spread))
            marks += [Line(((px, low), (px, high)), role, 1.2)]
            marks += [Line(((px - 3, end), (px + 3, end)), role, 1.2) for end in (low, high)]
        told = f"{100 * mean:.2f} %" + (f" ± {100 * spread:.2f}" if row.seeds > 1 else "")
        hint = f"{row.criterion}, {100 * row.rate_achieved:.1f} % removed, {100 * row.macs:.1f} % of the MACs: {told}"
        marks.append(marker(shape, (px, py), role, hint))
    return marks
