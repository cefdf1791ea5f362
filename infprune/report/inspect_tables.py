"""`data inspect` for people and spreadsheets: Rich tables and CSV."""

import csv
import io

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infprune.pipeline.data_inspect_results import Inspection, InspectResult, View
from infprune.report.tables import wrote

COLUMNS = ("rank", "sample", "label", "predicted", "p(label)", "loss")


def show_inspection(result: InspectResult, console: Console) -> None:
    """A ranked table per view."""
    console.print(f"[bold]{escape(headline(result))}[/bold]", soft_wrap=True)
    for view in result.views:
        console.print(_table(view))
        console.print(f"{view.method}, {view.unit}: {view.meaning}.", soft_wrap=True, highlight=False, markup=False)
    wrote(result.files, console)


def headline(result: InspectResult) -> str:
    """What was looked at, in a line."""
    about = "" if result.query is None else f"; query: {result.query.text}, {result.query.loss:.4g} nats"
    return f"{result.model} on {result.data}: {result.samples:,} training samples{about}"


def inspection_csv(inspection: Inspection) -> str:
    """A line per sample of each view."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["view", "method", "rank", "index", "label", "predicted", "probability", "loss", "score"])
    for view in inspection.result.views:
        for row in view.rows:
            numbers = [repr(v) for v in (row.probability, row.loss, row.score)]
            writer.writerow([view.name, view.method, row.rank, row.index, row.label, row.predicted, *numbers])
    return buffer.getvalue()


def _table(view: View) -> Table:
    table = Table(title=escape(view.title), title_justify="left")
    for name in (*COLUMNS, view.method):
        table.add_column(name, justify="right")
    for r in view.rows:
        numbers = (f"{r.probability:.3f}", f"{r.loss:.3f}", f"{r.score:+.3e}")
        table.add_row(str(r.rank), str(r.index), str(r.label), str(r.predicted), *numbers)
    return table
