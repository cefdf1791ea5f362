"""The gallery of `data inspect`: one page with the samples themselves, as pictures or as values."""

import shlex
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infprune.pipeline.data_inspect_results import InspectedSample, Inspection, View
from infprune.pipeline.pictures import Picture, picture
from infprune.report.inspect_tables import headline
from infprune.report.markup import Markup, tag
from infprune.report.page import Cell, code, facts, page, paragraph, seconds, section, table
from infprune.report.picture import shown

COLUMNS = 24  # of tabular data that a table shows: those that vary most


def inspection_html(inspection: Inspection) -> str:
    """Everything that was found, as one HTML file without references to others."""
    result = inspection.result
    sections = [] if result.query is None else [_query(inspection)]
    sections += [_view(view, inspection) for view in result.views]
    told = [("run folder", code(result.run_dir)), *_curvature(inspection)]
    command = shlex.join(["infprune", "data", "inspect", "-c", f"{result.run_dir}/config.yaml", *inspection.asked])
    sections += [
        seconds(result.seconds),
        section("Where it comes from", facts(told, "origins"), tag("pre", code(command))),
    ]
    return page(f"{result.model} on {result.data}: samples", paragraph(headline(result)), sections, pictures=True)


def _query(inspection: Inspection) -> Markup:
    query = inspection.result.query
    assert query is not None
    words = paragraph(
        f"Influence is on {query.text}: {query.loss:.4g} nats"
        + (f", {query.samples:,} samples of the test part." if query.samples > 1 else ".")
    )
    if query.sample is None or inspection.query is None:
        return section("The query", words)
    return section(
        "The query", words, _shown([query.sample], {query.sample.index: inspection.query}, inspection, "loss")
    )


def _view(view: View, inspection: Inspection) -> Markup:
    words = paragraph(f"{view.method} ({view.unit}): {view.meaning}.")
    return section(view.title, words, _shown(view.rows, inspection.inputs, inspection, view.method))


def _shown(
    rows: Sequence[InspectedSample], inputs: Mapping[int, Tensor], inspection: Inspection, method: str
) -> Markup:
    """Pictures where the samples are images, their values where they are rows of a table, else the numbers alone."""
    found = [inputs[row.index] for row in rows if row.index in inputs]
    pictures = [seen for seen in map(picture, found) if seen is not None]
    if len(pictures) == len(rows):
        return tag(
            "div", *(_card(row, seen, method) for row, seen in zip(rows, pictures, strict=True)), class_="gallery"
        )
    columns: Sequence[int] = ()
    if len(found) == len(rows) and all(x.dim() == 1 for x in found):
        columns = torch.stack(found).std(0, correction=0).argsort(descending=True)[:COLUMNS].sort().values.tolist()
    names = [inspection.features[i] if inspection.features else f"x{i}" for i in columns]
    lines = [
        [*_numbers(row), *(Cell(f"{v:.4g}", v) for v in map(float, inputs[row.index][list(columns)]))]
        if columns
        else _numbers(row)
        for row in rows
    ]
    caption = "Samples" if len(columns) < COLUMNS else f"Samples, with the {COLUMNS} features that differ most"
    heads = ["sample", "label", "predicted", "p(label)", "loss (nats)", method, *names]
    return table(caption, heads, lines, sortable=True)


def _numbers(row: InspectedSample) -> list[Cell]:
    return [
        Cell(row.index, row.index),
        Cell(row.label, row.label),
        Cell(row.predicted, row.predicted),
        Cell(f"{row.probability:.3f}", row.probability),
        Cell(f"{row.loss:.3f}", row.loss),
        Cell(f"{row.score:+.3e}", row.score),
    ]


def _card(row: InspectedSample, seen: Picture, method: str) -> Markup:
    wrong = "" if row.label == row.predicted else f", predicted {row.predicted}"
    words = f"label {row.label}{wrong}, p(label) {row.probability:.3f}"
    caption = tag(
        "figcaption", tag("strong", f"{row.rank}. #{row.index}"), words, tag("br"), f"{method} {row.score:+.3g}"
    )
    return tag("figure", shown(seen, f"sample {row.index}: {words}"), caption)


def _curvature(inspection: Inspection) -> list[tuple[str, object]]:
    c = inspection.result.curvature
    if c is None:
        return []
    text = f"{c.curvature} of {c.samples:,} samples, {c.parameters:,} parameters, solver {c.solver}"
    return [("curvature", f"{text}, ridge {c.ridge:.3g}, damping {c.damping:.3g}")]
