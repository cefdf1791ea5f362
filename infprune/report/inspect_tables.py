"""`data inspect` for people: Rich tables."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infprune.pipeline.data_inspect_results import InspectResult, View
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


def _table(view: View) -> Table:
    table = Table(title=escape(view.title), title_justify="left")
    for name in (*COLUMNS, view.method):
        table.add_column(name, justify="right")
    for r in view.rows:
        numbers = (f"{r.probability:.3f}", f"{r.loss:.3f}", f"{r.score:+.3e}")
        table.add_row(str(r.rank), str(r.index), str(r.label), str(r.predicted), *numbers)
    return table
