"""The page of a pruned network."""

import shlex

from infprune.pipeline.prune_results import Goal, PruneResult, Search
from infprune.pipeline.results import Gate, LayerRow
from infprune.proof import TOLERANCE
from infprune.report.markup import Markup, joined, tag
from infprune.report.page import Cell, code, facts, figures, lines, page, paragraph, provenance, seconds, section, table
from infprune.report.prune_figures import prune_scenes

GOALS = {
    "rate": "channels removed, at most",
    "macs": "MACs kept, at most",
    "params": "parameters kept, at most",
    "bytes": "bytes kept, at most",
    "latency": "time of one sample kept, at most",
}
GATES = {
    "min-accuracy": "test accuracy, at least",
    "max-drop": "drop of test accuracy, at most",
    "max-latency": "time of one sample, at most",
}


def prune_html(result: PruneResult) -> str:
    """Everything that is known of a run, as one HTML file without references to others."""
    scenes = {scene.name: scene for scene in prune_scenes(result)}
    about = figures([scenes[name] for name in ("channels", "scores") if name in scenes])
    sections = [
        section(
            "Size and accuracy",
            _sizes(result),
            _asked(result) if result.goals or result.gates else None,
            _accuracy(result),
        ),
        section("Layers", about, _plan(result.layers), _notes(result.layers)),
    ]
    if result.search is not None:
        drawn = figures([scenes[name] for name in ("rates", "prediction") if name in scenes])
        sections.append(section("Search for the rate", drawn, _probes(result.search)))
    if result.joint is not None:
        sections.append(_learned(result))
    command = f"infprune prune -c {shlex.quote(f'{result.run_dir}/config.yaml')}"
    more = [("run folder", code(result.run_dir)), ("network written", code(result.artifact))]
    sections += [_proof(result), seconds(result.seconds), provenance(result.provenance, command, more)]
    return page(f"{result.model} on {result.data}, pruned", _summary(result), sections)


def _summary(result: PruneResult) -> Markup:
    drop = 100 * (result.accuracy.final - result.accuracy.dense)
    corrected = "not corrected" if result.compensate == "none" else f"corrected by {result.compensate}"
    numbers = [
        ("channels kept", f"{result.channels.after / result.channels.before:.1%}"),
        ("parameters kept", f"{result.params.after / result.params.before:.1%}"),
        ("MACs kept", f"{result.macs.after / result.macs.before:.1%}"),
        ("time of one sample", f"{result.latency_ms.after / result.latency_ms.before:.0%}"),
        ("test accuracy", f"{result.accuracy.final:.2%}"),
        ("points against dense", f"{drop:+.2f}"),
        ("largest error of the proof", f"{result.verified.max_relative_error:.1e}"),
    ]
    words = (
        f"{result.rate_achieved:.1%} of the prunable channels removed by {result.criterion} "
        f"(scope: {result.scope}), the weights that stay {corrected}."
    )
    missed = [paragraph(tag("strong", "Quality gate missed: "), line, class_="missed") for line in result.missed]
    return joined(paragraph(words), *missed, facts(numbers, "tiles"))


def _sizes(result: PruneResult) -> Markup:
    rows = []
    for name, label in (("channels", "channels"), ("params", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
        c = getattr(result, name)
        share = c.after / c.before
        rows.append(
            [
                Cell(label),
                Cell(f"{c.before:,.0f}", c.before),
                Cell(f"{c.after:,.0f}", c.after),
                Cell(f"{share:.1%}", share, share),
            ]
        )
    t = result.latency_ms
    share = t.after / t.before
    time = [Cell(f"{t.before:.2f}", t.before), Cell(f"{t.after:.2f}", t.after), Cell(f"{share:.1%}", share, share)]
    rows.append([Cell("latency, batch 1 (ms)"), *time])
    return table("Before and after", ["", "dense", "pruned", "kept"], rows)


def _asked(result: PruneResult) -> Markup:
    rows = [
        [
            Cell(GOALS[goal.name] + (", found by the search" if goal.name == "rate" and result.search else "")),
            Cell(_goal(goal, goal.asked), goal.asked),
            Cell(_goal(goal, goal.achieved), goal.achieved),
            Cell("✓ met" if goal.met else "✗ missed"),
        ]
        for goal in result.goals
    ]
    for gate in result.gates:
        shown = [Cell(_gate(gate, value), value) for value in (gate.limit, gate.value)]
        rows.append([Cell(GATES[gate.name]), *shown, Cell("✓ met" if gate.passed else "✗ missed")])
    return table("Asked and achieved", ["limit", "asked", "achieved", ""], rows)


def _goal(goal: Goal, value: float) -> str:
    if goal.asked <= 1:
        return f"{value:.1%}"
    return f"{value:.3g} ms" if goal.name == "latency" else f"{value:,.0f}"


def _gate(gate: Gate, value: float) -> str:
    if gate.name != "max-latency":
        return f"{value:.4f}"
    return f"{value:.1%}" if gate.limit <= 1 else f"{value:.3g} ms"


def _accuracy(result: PruneResult) -> Markup:
    a = result.accuracy
    rows = [
        [Cell(name), Cell(f"{100 * v:.2f} %", v, v), Cell(f"{100 * (v - a.dense):+.2f}", v - a.dense)]
        for name, v in a.measured.items()
    ]
    return table("Test accuracy by stage", ["stage", "accuracy", "points against dense"], rows)


def _proof(result: PruneResult) -> Markup:
    v = result.verified
    frozen = [
        paragraph("The proof froze these layers: their cut could not be shown to be right."),
        lines(v.groups_frozen),
    ]
    inexact = [
        paragraph("These norms take their statistics over the channels that stay, in the proof as in the network:"),
        lines([code(name) for name in v.inexact]),
    ]
    return section(
        "Proof",
        paragraph(
            "The smaller network, before any correction, was compared with the dense one whose removed channels are "
            "silenced, on real and on random inputs. Largest relative error: ",
            tag("strong", f"{v.max_relative_error:.1e}"),
            f" (allowed: {TOLERANCE:.0e}).",
        ),
        *(frozen if v.groups_frozen else [paragraph("No layer was frozen by the proof.")]),
        *(inexact if v.inexact else []),
    )


def _plan(layers: list[LayerRow]) -> Markup:
    def row(layer: LayerRow) -> list[Cell]:
        scores = [
            Cell(f"{layer.quantiles[i]:.2e}".replace("0.00e+00", "0"), layer.quantiles[i])
            if layer.quantiles
            else Cell("")
            for i in (0, 2, 4)
        ]
        kept, gone = layer.kept / layer.channels, layer.channels - layer.kept
        return [
            Cell(joined(code(layer.name), tag("small", " not cut") if layer.frozen else None)),
            Cell(layer.channels, layer.channels),
            Cell(layer.kept, layer.kept),
            Cell(gone, gone),
            Cell(f"{kept:.1%}", kept, kept),
            Cell(f"{layer.macs_share:.1%}", layer.macs_share),
            *scores,
        ]

    columns = ["layer", "channels", "kept", "removed", "kept (%)", "share of MACs", "least score", "median", "largest"]
    return table(
        "The plan, layer by layer; the headers sort it", columns, [row(layer) for layer in layers], sortable=True
    )


def _notes(layers: list[LayerRow]) -> Markup | None:
    """Why layers are not cut, and which cuts are not exact."""
    told = [(row.name, f"not cut: {row.frozen}") for row in layers if row.frozen]
    told += [(row.name, f"inexact: its channels are averaged in {row.inexact}") for row in layers if row.inexact]
    rows = [[Cell(code(name)), Cell(reason)] for name, reason in told]
    return table("Layers with a reason", ["layer", "reason"], rows) if rows else None


def _probes(search: Search) -> Markup:
    rows = [
        [
            Cell(f"{p.rate:.3f}", p.rate),
            Cell("", None) if p.predicted is None else Cell(f"{p.predicted:.4g}", p.predicted),
            Cell(f"{p.measured:.4g}", p.measured),
            Cell(f"{p.accuracy:.4f}", p.accuracy),
        ]
        for p in search.probes
    ]
    columns = ["rate", "predicted loss", "measured loss", "validation accuracy"]
    return table(f"Rates that were tried; dense validation accuracy {search.dense:.4f}", columns, rows)


def _learned(result: PruneResult) -> Markup:
    joint = result.joint
    assert joint is not None
    columns = list(dict.fromkeys(key for epoch in joint.epochs for key in epoch))
    rows = [[_value(epoch.get(key)) for key in columns] for epoch in joint.epochs]
    words = f"{joint.method}: cut after {joint.learning} of {len(joint.epochs)} epochs."
    handover: tuple[object, ...] = ()
    if joint.handover is not None:
        handover = (" Surgery changed the outputs by ", tag("strong", f"{joint.handover:.1e}"), " (relative).")
    epochs = table("Epochs", [column.replace("_", " ") for column in columns], rows) if rows else None
    return section("Fine-tuning around the cut", paragraph(words, *handover), epochs)


def _value(value: object) -> Cell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell("" if value is None else value)
    return Cell(value if isinstance(value, int) else f"{value:.4f}", value)
