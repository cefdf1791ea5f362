"""Validate, layers and features for people: Rich tables, Markdown, CSV."""

import csv
import io
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from infprune.pipeline.influence_results import (
    Agreement,
    CurvatureRow,
    FeaturesResult,
    FormRow,
    LayersResult,
    ValidateResult,
)
from infprune.report.tables import markdown_table, table, wrote

VALIDATE = (
    "removed",
    "form",
    "loss r",
    "slope",
    "kept r",
    "slope",
    "mean r",
    "all r",
    "test r",
    "2nd",
    "bracket",
    "load",
)
SHORT = (0, 1, 2, 4, 6, 7, 8, 9, 11)  # of these columns, where the terminal is narrow
LAYERS = ("layer", "parameters", "influence", "of it damping", "measured, nothing adapts")


def show_validate(result: ValidateResult, console: Console) -> None:
    """A line per size and form."""
    console.print(f"[bold]{_named(result)}: predicted against retrained[/bold]", soft_wrap=True)
    console.print(curvature_said(result.curvature), soft_wrap=True)
    cells = [
        [line[i] for i in SHORT]
        for row, line in zip(result.rows, validate_cells(result.rows), strict=True)
        if row.form != "bracket"
    ]
    console.print(table([VALIDATE[i] for i in SHORT], cells, left=2))
    console.print(
        "r: Pearson's, of predicted with actual over groups. loss: regularised training loss. kept: parameters that "
        "were not removed, pooled over groups; mean: r within a group, averaged. all: with the removed ones. test: "
        "test loss to first order (MU eq. 5), 2nd: with the quadratic term. load: k x mean |corr| in the inverse "
        "curvature; above 0.3 do not trust the printed form.",
        soft_wrap=True,
    )
    brackets = [row for row in result.rows if row.contained is not None]
    if brackets:
        held, tried = sum(row.contained or 0 for row in brackets), sum(row.groups for row in brackets)
        console.print(f"Brackets that hold the exact quadratic value: {held} of {tried}.")
    if result.unconverged:
        console.print(f"[yellow]{result.unconverged} groups left out: retraining missed its tolerance[/yellow]")
    wrote(result.files, console)


def show_layers(result: LayersResult, console: Console) -> None:
    """A line per layer."""
    console.print(f"[bold]{_named(result)}: influence of layers[/bold], nats", soft_wrap=True)
    console.print(curvature_said(result.curvature), soft_wrap=True)
    console.print(table(LAYERS, layers_cells(result), left=1))
    for row in result.rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", soft_wrap=True, markup=False)
    for line in result.left_out:
        console.print(f"Left out: {line}", soft_wrap=True, markup=False)
    wrote(result.files, console)


def show_features(result: FeaturesResult, console: Console) -> None:
    """The largest ones."""
    console.print(
        f"[bold]{_named(result)}: influence of input features[/bold], nats; test accuracy {result.accuracy:.4f}",
        soft_wrap=True,
    )
    console.print(f"Read by: {result.read_by}. " + curvature_said(result.curvature), soft_wrap=True, markup=False)
    rows = sorted(result.rows, key=lambda r: r.rank)[: result.top]
    cells = [[str(r.rank), r.name, _number(r.influence)] for r in rows]
    console.print(table(("rank", "feature", "influence"), cells, left=2))
    if len(result.rows) > len(rows):
        console.print(f"{len(result.rows)} features in all; the files hold every one.")
    wrote(result.files, console)


def validate_markdown(result: ValidateResult) -> str:
    """The same as Markdown."""
    cells = validate_cells(result.rows)
    said = [
        f"# {result.model} on {result.data}: Theorem 1 against retraining",
        "",
        curvature_said(result.curvature) + f" Training loss {result.train_loss:.4f}, test loss {result.test_loss:.4f}.",
        "",
        "`r`: Pearson correlation of predicted with actual over random groups; `slope`: predicted over actual. `loss`:",
        "regularised training loss. `kept`: parameters that were not removed, pooled over groups; `mean`: r within a",
        "group, averaged. `all`: with the removed ones, which the exact form pins. `test`: test loss to first order,",
        "`2nd`: with the quadratic term.",
        "`bracket`: brackets that hold the exact quadratic value, of all. `load`: k x mean |corr| in H^-1.",
        "",
        *markdown_table(VALIDATE, cells, left=2),
    ]
    return "\n".join(said) + "\n"


def layers_markdown(result: LayersResult) -> str:
    """The same as Markdown."""
    lines = [f"# {result.model} on {result.data}: influence of layers (nats)", "", curvature_said(result.curvature), ""]
    lines += markdown_table(LAYERS, layers_cells(result), left=1)
    lines += [""] + [f"Left out: {line}." for line in result.left_out] if result.left_out else []
    return "\n".join(lines) + "\n"


def features_csv(result: FeaturesResult) -> str:
    """One line per feature, in their order."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["feature", "influence", "rank"])
    for row in result.rows:
        writer.writerow([row.name, "" if row.influence is None else repr(row.influence), row.rank])
    return buffer.getvalue()


def validate_cells(rows: Sequence[FormRow]) -> list[list[str]]:
    """The numbers of `VALIDATE`."""

    def pair(a: Agreement) -> list[str]:
        return [_r(a.r), "-" if a.slope is None else f"{a.slope:.2f}"]

    return [
        [
            f"{row.share:.0%} ({row.parameters})" if row.share else "single",
            row.form + (f" ({row.infinite} infinite)" if row.infinite else ""),
            *pair(row.loss),
            *pair(row.kept),
            _r(row.kept_r_mean),
            _r(row.everything.r),
            _r(row.test.r),
            _r(row.test_second.r),
            "" if row.contained is None else f"{row.contained}/{row.groups}",
            "-" if row.load is None else f"{row.load:.2f}",
        ]
        for row in rows
    ]


def layers_cells(result: LayersResult) -> list[list[str]]:
    """The numbers of `LAYERS`; bounds in brackets where there are any."""

    def bounds(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"

    return [
        [
            row.name,
            f"{row.parameters:,}",
            _number(row.influence) + bounds(row.low, row.high),
            _number(row.of_damping),
            _number(row.frozen_loss),
        ]
        for row in result.rows
    ]


def curvature_said(c: CurvatureRow) -> str:
    """With what the theorem was applied, in a sentence."""
    what = "parameters" if c.space == "weights" else "gates"
    text = (
        f"Space: {c.space}; curvature: {c.curvature} of {c.samples:,} samples, {c.parameters:,} {what}; form: {c.form}"
        f"; solver: {c.solver}; ridge {c.ridge:.3g}, damping {c.damping:.3g}"
    )
    if c.greatest_eigenvalue is not None and c.least_eigenvalue is not None:
        text += f"; eigenvalues about {c.least_eigenvalue:.2g} to {c.greatest_eigenvalue:.3g} without damping"
    if c.gradient_norm is not None:
        text += f"; |gradient| {c.gradient_norm:.1e}"
    return text + "."


def _named(result: ValidateResult | LayersResult | FeaturesResult) -> str:
    return escape(f"{result.model} on {result.data}")


def _r(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
