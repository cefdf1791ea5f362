"""A trace for people: a Rich table, and CSV."""

import csv
import io

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infprune.pipeline.trace_results import SolveRow, StageRow, Traced, TraceResult
from infprune.report.tables import wrote

COLUMNS = ("rank", "sample", "label", "influence", "removal (nats)", "identity")
CASES = {
    0: "fine-tuning moved some of the shared layers",
    1: "fine-tuning kept every shared layer (case 1)",
    2: "fine-tuning moved every layer (case 2)",
}


def show_trace(result: TraceResult, console: Console) -> None:
    """The examples at either end."""
    console.print(f"[bold]{escape(result.model)}: {escape(what(result))}[/bold]", soft_wrap=True)
    for stage in result.stages:
        console.print(said(stage), soft_wrap=True, markup=False)
    for solve in result.solves:
        console.print(solved(solve), soft_wrap=True, markup=False)
        if solve.message:
            console.print(f"[yellow]{solve.stage}: {escape(solve.message)}[/yellow]", soft_wrap=True)
    table = Table(*COLUMNS)
    for i, row in enumerate(result.rows):
        cells = (row.influence, row.removal, row.identity)
        between = result.rows[i + 1].rank > row.rank + 1 if i + 1 < len(result.rows) else False
        table.add_row(str(row.rank), str(row.sample), str(row.label), *(f"{v:.4g}" for v in cells), end_section=between)
    console.print(table)
    console.print(legend(result), soft_wrap=True, markup=False)
    wrote(result.files, console)


def trace_csv(traced: Traced) -> str:
    """One line per pretraining example, by rank."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["rank", "sample", "label", "influence", "removal", "identity"])
    for row in traced.everything:
        numbers = map(repr, (row.influence, row.removal, row.identity))
        writer.writerow([row.rank, row.sample, row.label, *numbers])
    return buffer.getvalue()


def what(result: TraceResult) -> str:
    """What was traced."""
    test = result.test
    if test.sample is None:
        return f"{test.samples:,} test predictions traced to {result.examples:,} pretraining examples"
    guess = "rightly predicted" if test.predicted == test.label else f"taken for a {test.predicted}"
    return f"test sample {test.sample}, a {test.label} {guess}, traced to {result.examples:,} pretraining examples"


def said(row: StageRow) -> str:
    """One stage in a sentence."""
    labels = ", ".join(map(str, row.labels)) if len(row.labels) <= 12 else f"{len(row.labels)} classes"
    return (
        f"{row.stage}: {row.data} {labels}; {row.samples:,} samples, {row.trained:,} of {row.parameters:,} parameters; "
        f"loss {row.loss:.4f}, test accuracy {row.accuracy:.4f}, |gradient| {row.gradient_norm:.1e}"
    )


def solved(row: SolveRow) -> str:
    """One solve in a sentence."""
    return (
        f"{row.stage} Hessian: {row.samples:,} samples, {row.solver}, damping {row.damping:.3g}; {row.outcome} after "
        f"{row.iterations} iterations, residual {row.residual:.2g}"
    )


def legend(result: TraceResult) -> str:
    """What the columns are."""
    r = "" if result.identity_r is None else f", r = {result.identity_r:.2f} with the influence"
    return (
        f"{CASES[result.case].capitalize()}. influence: derivative of the traced loss in the weight of the example; "
        "positive: it makes that loss larger. removal: predicted change of the mean loss without it. identity: with "
        f"every inverse Hessian replaced by the identity{r}. Mean |influence|: {result.mean_abs:.4g}."
    )
