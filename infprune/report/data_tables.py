"""Results of `infprune data` for people: Rich tables, Markdown."""

from rich.console import Console
from rich.markup import escape

from infprune.pipeline.data_results import DataCurveResult, DataPruneResult, DataScoreResult, SampleRow
from infprune.report.influence_tables import curvature_said
from infprune.report.tables import markdown_table, table, wrote

ENDS = 5  # rows shown from either end
CLASSES = ("class", "samples", "mean", "least", "quarter", "median", "3 quarters", "largest")
CURVE = ("strategy", "kept", "samples", "test accuracy", "against random", "beats it")


def show_data_score(result: DataScoreResult, console: Console) -> None:
    """The classes, and both ends of the ranking."""
    named = escape(f"{result.model} on {result.data}")
    console.print(f"[bold]{named}: {result.method} of {result.samples:,} training samples[/bold]", soft_wrap=True)
    console.print(f"Unit: {result.unit}. Large scores: {result.meaning}.", soft_wrap=True)
    if result.curvature is not None:
        console.print(curvature_said(result.curvature), soft_wrap=True)
    facts = "; ".join(f"{key} {_fact(value)}" for key, value in result.facts.items() if value != "")
    if facts:
        console.print(facts.replace("_", " "), soft_wrap=True, markup=False)
    cells = [
        [str(row.label), f"{row.samples:,}", *(f"{v:.4g}" for v in (row.mean, *row.quantiles))]
        for row in result.classes
    ]
    console.print(table(CLASSES, cells, left=1))
    console.print(f"Largest: {_ends(result.highest)}", soft_wrap=True)
    console.print(f"Smallest: {_ends(result.lowest)}", soft_wrap=True)
    wrote([result.scores, *result.files], console)


def show_data_prune(result: DataPruneResult, console: Console) -> None:
    """What stays, by class."""
    console.print(
        f"[bold]{result.kept:,} of {result.samples:,} training samples stay[/bold]: {result.strategy} by "
        f"{result.method}, balance {result.balance}, scores {result.threshold[0]:.4g} to {result.threshold[1]:.4g}",
        soft_wrap=True,
    )
    cells = [[str(r.label), f"{r.samples:,}", f"{r.kept:,}", f"{r.kept / r.samples:.1%}"] for r in result.classes]
    console.print(table(("class", "samples", "kept", "share"), cells, left=1))
    wrote([result.subset], console)


def show_data_curve(result: DataCurveResult, console: Console) -> None:
    """A line per strategy and share."""
    console.print(f"[bold]{escape(_title(result))}[/bold]", soft_wrap=True)
    console.print(_whole(result), soft_wrap=True)
    console.print(table(CURVE, curve_cells(result), left=1))
    console.print(NOTE, soft_wrap=True)
    wrote(result.files, console)


def curve_markdown(result: DataCurveResult) -> str:
    """The same as Markdown."""
    lines = [f"# {_title(result)}", "", _whole(result), "", *markdown_table(CURVE, curve_cells(result), left=1)]
    return "\n".join([*lines, "", NOTE]) + "\n"


NOTE = (
    "Mean and sample standard deviation over seeds. Against random: difference at the same share, paired by seed, in "
    "points; beats it: the mean difference is larger than its deviation."
)


def curve_cells(result: DataCurveResult) -> list[list[str]]:
    """The numbers of `CURVE`."""
    return [
        [
            row.strategy,
            f"{row.keep:.0%}",
            f"{row.kept:,}",
            _percent(*row.accuracy),
            "" if row.difference is None else f"{100 * row.difference[0]:+.2f} ± {100 * row.difference[1]:.2f}",
            "" if row.wins is None else "yes" if row.wins else "no",
        ]
        for row in result.rows
    ]


def _title(result: DataCurveResult) -> str:
    return f"{result.model} on {result.data}: accuracy against kept share, scores {result.method}"


def _whole(result: DataCurveResult) -> str:
    seeds = result.rows[0].seeds
    return (
        f"All {result.samples:,} samples: {_percent(*result.whole)}; {seeds} seed{'s' * (seeds > 1)}, "
        f"balance {result.balance}."
    )


def _percent(mean: float, spread: float) -> str:
    return f"{100 * mean:.2f} ± {100 * spread:.2f} %"


def _ends(rows: list[SampleRow]) -> str:
    return ", ".join(f"{row.index} (class {row.label}) {row.score:.4g}" for row in rows[:ENDS])


def _fact(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
