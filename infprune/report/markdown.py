"""Results as Markdown, for README, job pages and docs/results."""

import shlex
from pathlib import Path

from infprune.pipeline.compare_results import CompareResult
from infprune.pipeline.prune_results import PruneResult
from infprune.pipeline.report_results import ReportResult
from infprune.pipeline.results import Gate
from infprune.report.figures import by_criterion, stages


def prune_markdown(result: PruneResult) -> str:
    """What changed, the gates, the layers, and the command that repeats the run."""
    named = _cell_text(f"{result.model} on {result.data}")
    lines = [
        f"### {named}: {result.criterion}, {result.rate_achieved:.1%} of the channels removed",
        "",
        "| | dense | pruned | kept |",
        "|---|---:|---:|---:|",
    ]
    for name in ("channels", "params", "macs", "bytes"):
        change = getattr(result, name)
        lines.append(f"| {name} | {change.before:,.0f} | {change.after:,.0f} | {change.after / change.before:.1%} |")
    lat = result.latency_ms
    lines.append(f"| latency (ms) | {lat.before:.2f} | {lat.after:.2f} | {lat.after / lat.before:.1%} |")
    a = result.accuracy
    told = ", ".join(f"{name} {value:.4f}" for name, value in a.measured.items())
    lines += ["", f"Test accuracy: {told}."]
    lines.append(f"Proof: largest relative error {result.verified.max_relative_error:.1e}.")
    lines += [f"Frozen by the proof: {_cell_text(reason)}." for reason in result.verified.groups_frozen]
    if result.verified.inexact:
        lines.append(f"Norms over the channels that stay: {', '.join(map(_code, result.verified.inexact))}.")
    lines.append(f"Scope: {result.scope}. Compensation: {result.compensate}.")
    lines += ["", *_gates(result.gates), "", *_layers(result), ""]
    replay = shlex.join(["infprune", "prune", "-c", str(Path(result.run_dir) / "config.yaml")])
    lines.append(f"Wrote {_code(result.artifact)} in {sum(result.seconds.values()):.1f} s. The same again:")
    lines += ["", "```console", f"$ {replay}", "```"]
    return "\n".join(lines) + "\n"


def compare_markdown(result: CompareResult, command: str) -> str:
    """Both networks side by side, what they agree on, the gates, and the command that was run."""
    a, b, lat = result.a, result.b, result.latency_ms
    lines = [
        f"### {_cell_text(a.source)} against {_cell_text(b.source)} on {_cell_text(result.data)}",
        "",
        f"| | {_code(a.source)} | {_code(b.source)} | change |",
        "|---|---:|---:|---:|",
        f"| test accuracy | {a.accuracy:.4f} | {b.accuracy:.4f} | {b.accuracy - a.accuracy:+.4f} |",
        f"| loss (nats) | {a.loss:.4f} | {b.loss:.4f} | {b.loss - a.loss:+.4f} |",
    ]
    for name in ("params", "macs", "bytes"):
        before, after = getattr(a, name), getattr(b, name)
        lines.append(f"| {name} | {before:,} | {after:,} | {_share(before, after)} |")
    lines += [
        f"| latency, batch 1 (ms) | {lat.a.median:.2f} | {lat.b.median:.2f} | {lat.ratio.median:.1%} |",
        "",
        f"Equal predictions: {result.agreement:.2%} of {result.samples:,} test samples.",
        f"Mean KL divergence of the second from the first: {result.kl:.4g} nats.",
        f"Latency: {lat.n} alternating rounds on {lat.device}; verdict on the second: {lat.verdict}.",
        "",
        *_gates(result.gates),
        "",
        "```console",
        f"$ {command}",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _gates(gates: list[Gate]) -> list[str]:
    if not gates:
        return ["Quality gates: none."]
    rows = [f"| {'pass' if g.passed else '**FAIL**'} | {g.name} | {_cell_text(g.message)} |" for g in gates]
    return ["| gate | | |", "|---|---|---|", *rows]


def _layers(result: PruneResult) -> list[str]:
    rows = [
        f"| {_code(row.name)} | {row.channels} | {row.kept} | {_cell_text(row.frozen or '')} |" for row in result.layers
    ]
    head = ["| layer | channels | kept | why whole |", "|---|---:|---:|---|"]
    return ["<details><summary>Layers</summary>", "", *head, *rows, "", "</details>"]


def _share(before: float, after: float) -> str:
    return f"{after / before:.1%}" if before else "-"


def _cell_text(text: str) -> str:
    """Text that a cell or line takes as text: no new column, tag or line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    """A name in a code span; a backtick inside would end it."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def report_markdown(result: ReportResult) -> str:
    """One table per stage: rows are criteria, columns are rates, cells are mean (standard deviation)."""
    rates = sorted({row.rate for row in result.rows})
    seeds = result.rows[0].seeds
    lines = [
        f"# {result.model} on {result.data}",
        "",
        f"Test accuracy in %, {_averaged(seeds)}. Dense: {100 * result.dense:.2f}.",
        f"Scope: {result.scope}. Compensation: {result.compensate}. Calibration: {result.calibration} samples.",
    ]
    for stage in stages(result):
        lines += ["", f"## {stage}", "", "| criterion | " + " | ".join(f"{100 * r:g} %" for r in rates) + " |"]
        lines.append("|---|" + "---:|" * len(rates))
        for name, rows in by_criterion(result).items():
            lines.append(f"| {name} | " + " | ".join(_cell(getattr(row, stage), seeds) for row in rows) + " |")
    lines += ["", "## MACs kept (%)", "", "| criterion | " + " | ".join(f"{100 * r:g} %" for r in rates) + " |"]
    lines.append("|---|" + "---:|" * len(rates))
    for name, rows in by_criterion(result).items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * row.macs:.1f}" for row in rows) + " |")
    return "\n".join(lines) + "\n"


def _averaged(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds (standard deviation)"


def _cell(value: tuple[float, float] | None, seeds: int) -> str:
    if value is None:
        return "-"
    return f"{100 * value[0]:.2f} ({100 * value[1]:.2f})" if seeds > 1 else f"{100 * value[0]:.2f}"
