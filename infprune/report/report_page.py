"""The page of a comparison."""

import shlex

from infprune.pipeline.report_results import ReportResult, ReportRow
from infprune.pipeline.results import STAGES
from infprune.report.figures import by_criterion, stages
from infprune.report.markup import Markup, joined, tag
from infprune.report.page import Cell, code, facts, figures, page, paragraph, provenance, seconds, section, table
from infprune.report.report_figures import report_scenes


def report_html(result: ReportResult) -> str:
    """Accuracy of several criteria at several rates, as one HTML file without references to others."""
    sections = [
        section("Accuracy", figures(report_scenes(result))),
        section("By criterion and rate", *(_by_rate(result, stage) for stage in stages(result))),
        section("All points", _points(result)),
        seconds(result.seconds),
        provenance(result.provenance, _command(result), [("run folder", code(result.run_dir))]),
    ]
    return page(f"{result.model} on {result.data}: criteria compared", _summary(result), sections)


def _summary(result: ReportResult) -> Markup:
    last, seeds = stages(result)[-1], result.rows[0].seeds
    spread = f"Means of {seeds} calibration draws, with standard deviations." if seeds > 1 else "One calibration draw."
    words = f"Scope: {result.scope}. Compensation: {result.compensate}. Calibration: {result.calibration:,} samples. "
    best = [
        (f"highest mean, {100 * rate:g} % removed", joined(_percent(getattr(row, last)), tag("small", row.criterion)))
        for rate in sorted({row.rate for row in result.rows})
        for row in [max((r for r in result.rows if r.rate == rate), key=lambda r: (getattr(r, last) or (0.0,))[0])]
    ]
    return joined(paragraph(words, spread), facts([("dense", f"{100 * result.dense:.2f} %"), *best], "tiles"))


def _by_rate(result: ReportResult, stage: str) -> Markup:
    rates = sorted({row.rate for row in result.rows})
    rows = []
    for name, found in by_criterion(result).items():
        at = {row.rate: row for row in found}
        rows.append([Cell(code(name)), *(_spread(at.get(rate), stage) for rate in rates)])
    seeds = result.rows[0].seeds
    caption = f"Test accuracy (%), {STAGES[stage]}" + (", mean ± standard deviation" if seeds > 1 else "")
    return table(caption, ["criterion", *(f"{100 * rate:g} % removed" for rate in rates)], rows)


def _points(result: ReportResult) -> Markup:
    shown = stages(result)
    rows = [
        [
            Cell(code(row.criterion)),
            Cell(f"{100 * row.rate:g}", row.rate),
            Cell(f"{100 * row.rate_achieved:.1f}", row.rate_achieved),
            Cell(f"{100 * row.macs:.1f}", row.macs),
            *(_spread(row, stage) for stage in shown),
        ]
        for row in result.rows
    ]
    columns = ["criterion", "rate (%)", "removed (%)", "MACs kept (%)", *(f"{STAGES[stage]} (%)" for stage in shown)]
    return table("Every point; the headers sort it", columns, rows, sortable=True)


def _spread(row: ReportRow | None, stage: str) -> Cell:
    pair: tuple[float, float] | None = None if row is None else getattr(row, stage)
    if row is None or pair is None:
        return Cell("")
    mean, spread = pair
    return Cell(f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if row.seeds > 1 else ""), mean)


def _percent(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{100 * pair[0]:.2f} %"


def _command(result: ReportResult) -> str:
    rates = ",".join(f"{rate:g}" for rate in dict.fromkeys(row.rate for row in result.rows))
    criteria = ",".join(by_criterion(result))
    tuned = ["--finetune"] if any(row.finetuned is not None for row in result.rows) else []
    seeds = str(result.rows[0].seeds)
    words = ["infprune", "report", "-c", f"{result.run_dir}/config.yaml", "--rates", rates, "--criteria", criteria]
    return shlex.join([*words, "--seeds", seeds, *tuned])
