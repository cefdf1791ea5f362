"""Unlearning for people: Rich tables and Markdown."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from infprune.pipeline.unlearn_results import Quality, UnlearnResult
from infprune.report.tables import markdown_table, table, wrote

COLUMNS = {
    "kept": "kept",
    "forgotten": "forgotten",
    "relabelled": "with trigger",
    "attack": "attack",
    "attack_elsewhere": "of other classes",
    "membership": "membership AUC",
}


def show_unlearn(result: UnlearnResult, console: Console) -> None:
    """A line per network, the applications, the costs."""
    console.print(f"[bold]{escape(_title(result))}[/bold]", soft_wrap=True)
    console.print(_said(result), soft_wrap=True, markup=False)
    heads, cells = quality_cells(result)
    console.print(table(heads, cells, left=1))
    for line in _told(result):
        console.print(line, soft_wrap=True, markup=False)
    wrote((result.artifact, *result.files), console)


def unlearn_markdown(result: UnlearnResult) -> str:
    """The same as Markdown, with what was tried."""
    heads, cells = quality_cells(result)
    lines = [
        f"# {_title(result)}",
        "",
        _said(result),
        "",
        *markdown_table(heads, cells, left=1),
        "",
        *_told(result),
        "",
    ]
    if result.trials:
        lines += ["## Tried on the validation split", ""]
        names = ["application", "length", *(head for head in heads[1:-1]), "score"]
        shown = [key for key in COLUMNS if key != "membership" and getattr(result.after, key) is not None]
        rows = [
            [
                f"{t.application}",
                f"{t.length:g}",
                *(_percent(getattr(t.quality, key)) for key in shown),
                f"{t.score:.4f}" + (" *" if t.chosen else ""),
            ]
            for t in result.trials
        ]
        lines += markdown_table(names, rows, left=1)
    return "\n".join(lines) + "\n"


def quality_cells(result: UnlearnResult) -> tuple[list[str], list[list[str]]]:
    """The heads that have values, and a row per network."""
    shown = [key for key in COLUMNS if getattr(result.after, key) is not None]
    networks = {"before": result.before, "after": result.after, "fine-tuned": result.finetuned}
    if result.retrained is not None:
        networks["retrained"] = result.retrained.quality
    rows = [[name, *_cells(q, shown)] for name, q in networks.items() if q is not None]
    return ["test split", *(COLUMNS[key] for key in shown)], rows


def _cells(quality: Quality, shown: Sequence[str]) -> list[str]:
    return [f"{quality.membership:.3f}" if key == "membership" else _percent(getattr(quality, key)) for key in shown]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _title(result: UnlearnResult) -> str:
    return f"{result.model} on {result.data}: {result.forget} forgotten by {result.method}"


def _said(r: UnlearnResult) -> str:
    """With what, in a sentence."""
    which = "all parameters" if r.selection is None else f"{r.selection} filters at ratio {r.ratio:g}"
    text = (
        f"{r.samples['forget']:,} of {r.samples['forget'] + r.samples['kept']:,} training samples; {which}: "
        f"{r.parameters_changed:,} of {r.parameters:,} parameters ({r.parameters_changed / r.parameters:.1%}); "
        f"Hessian of {r.samples['hessian']:,} training samples, {r.solver}, damping {r.damping:.3g}."
    )
    return text + (f" {r.unseen} samples of the file were never trained on." if r.unseen else "")


def _told(r: UnlearnResult) -> list[str]:
    """The applications, and the way to the retrained network."""
    lines = []
    for i, a in enumerate(r.applications, 1):
        why = f" ({a.message})" if a.message else ""
        taken = f"length {a.length:g}, |change| {a.norm:.3g}" if a.length else f"no length better than staying{why}"
        lines.append(
            f"Application {i}: {a.outcome} after {a.iterations} iterations, residual {a.residual:.1e}; {taken}."
        )
    if r.retrained is not None:
        t = r.retrained
        took = "" if t.time_ratio is None else f"; time {t.time_ratio:.2f} of its training"
        lines.append(
            f"Against the network trained anew: distance {t.distance:.3f} of the one before, equal predictions "
            f"{t.agreement:.2%}, KL {t.kl:.3g} nats{took}."
        )
    lines.append(
        "Step lengths and applications were chosen on the validation split, the numbers are of the test split."
    )
    return lines
