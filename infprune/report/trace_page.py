"""The page of a trace: the traced prediction, and the pretraining examples at either end, with their images."""

import shlex
from collections.abc import Sequence

from infprune.pipeline.trace_results import SolveRow, StageRow, Traced, TraceResult, TraceRow
from infprune.report.markup import Markup, joined, tag
from infprune.report.page import Cell, code, facts, figures, page, paragraph, provenance, seconds, section, table
from infprune.report.picture import shown
from infprune.report.trace_figures import trace_scenes
from infprune.report.trace_tables import CASES, COLUMNS, legend, what


def trace_html(result: TraceResult, traced: Traced) -> str:
    """Everything that is known of a trace, as one HTML file without references to others."""
    worse = [row for row in result.rows if row.influence > 0]
    better = [row for row in result.rows if row.influence <= 0][::-1]
    command = f"infprune trace -c {shlex.quote(f'{result.run_dir}/config.yaml')}"
    sections = [
        section("Without them the loss would be lower", _gallery(worse, traced)),
        section("Without them the loss would be higher", _gallery(better, traced)),
        section("All examples", figures(trace_scenes(traced)), _table(result)),
        section("Stages", _stages(result.stages), _solves(result.solves)),
        seconds(result.seconds),
        provenance(None, command, [("run folder", code(result.run_dir))]),
    ]
    return page(f"{result.model}: {what(result)}", _summary(result, traced), sections, pictures=True)


def _summary(result: TraceResult, traced: Traced) -> Markup:
    test = result.test
    numbers = [
        ("loss of what is traced (nats)", f"{test.loss:.4g}"),
        ("mean |influence|", f"{result.mean_abs:.3g}"),
        ("r with the identity control", "-" if result.identity_r is None else f"{result.identity_r:.2f}"),
        *((f"test accuracy, {row.stage}", f"{row.accuracy:.2%}") for row in result.stages),
    ]
    image = None
    if traced.predicted is not None:
        alt = f"test sample {test.sample}, label {test.label}, predicted {test.predicted}"
        image = tag("figure", shown(traced.predicted, alt), tag("figcaption", alt))
    return joined(paragraph(f"{CASES[result.case].capitalize()}."), image, facts(numbers, "tiles"))


def _gallery(rows: Sequence[TraceRow], traced: Traced) -> Markup:
    if not rows:
        return paragraph("None.")
    cards = []
    for row in rows:
        told = f"sample {row.sample}, label {row.label}"
        picture = traced.pictures.get(row.sample)
        caption = tag("figcaption", tag("strong", f"{row.influence:+.3g}"), f" {told}")
        cards.append(tag("figure", None if picture is None else shown(picture, told), caption))
    return tag("div", *cards, class_="gallery")


def _table(result: TraceResult) -> Markup:
    rows = [
        [
            Cell(row.rank, row.rank),
            Cell(row.sample, row.sample),
            Cell(row.label, row.label),
            *(Cell(f"{v:.4g}", v) for v in (row.influence, row.removal, row.identity)),
        ]
        for row in result.rows
    ]
    made = table("Examples at either end; the headers sort them", COLUMNS, rows, sortable=True)
    return joined(made, paragraph(legend(result)))


def _stages(stages: Sequence[StageRow]) -> Markup:
    columns = ("stage", "data", "labels", "samples", "moved", "loss", "test accuracy", "|gradient|")
    rows = [
        [
            Cell(row.stage),
            Cell(row.data),
            Cell(", ".join(map(str, row.labels))),
            Cell(f"{row.samples:,}", row.samples),
            Cell(f"{row.trained:,} of {row.parameters:,}", row.trained),
            Cell(f"{row.loss:.4f}", row.loss),
            Cell(f"{row.accuracy:.2%}", row.accuracy),
            Cell(f"{row.gradient_norm:.1e}", row.gradient_norm),
        ]
        for row in stages
    ]
    return table("Both stages", columns, rows)


def _solves(solves: Sequence[SolveRow]) -> Markup:
    columns = ("stage", "solver", "damping", "samples", "iterations", "residual", "outcome")
    rows = [
        [
            Cell(row.stage),
            Cell(row.solver),
            Cell(f"{row.damping:.3g}", row.damping),
            Cell(f"{row.samples:,}", row.samples),
            Cell(row.iterations, row.iterations),
            Cell(f"{row.residual:.2g}", row.residual),
            Cell(row.outcome),
        ]
        for row in solves
    ]
    return table("Inverse Hessians", columns, rows)
