"""Results for people: Rich tables on a console that is passed in."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infprune.latency import Quartiles
from infprune.pipeline.compare_results import CompareResult
from infprune.pipeline.export_results import ExportResult, LatencyRow
from infprune.pipeline.prune_results import PlanResult, PruneResult, Search
from infprune.pipeline.report_results import ReportResult
from infprune.pipeline.results import EvaluateResult, JointTrace, LayerRow, ScoreResult, TrainResult
from infprune.report.drawn import FOLDER
from infprune.report.figures import by_criterion, stages
from infprune.report.terminal_plot import plot


def show_score(result: ScoreResult, console: Console) -> None:
    """The layers, and where the scores went."""
    console.print(f"[bold]{escape(result.model)}: {result.criterion}[/bold], unit: {result.unit}", soft_wrap=True)
    _show_layers(result.layers, console)
    console.print(f"The configured budget removes {result.rate_achieved:.1%} of the prunable channels.")
    console.print(
        f"Scores: [bold]{escape(result.scores)}[/bold]  (reuse: infprune prune --scores {escape(result.scores)})",
        soft_wrap=True,
    )


def show_prune(result: PruneResult, console: Console) -> None:
    """What changed, what it costs, and whether it is proved."""
    console.print(f"[bold]{_named(result)}: {result.criterion}, {result.rate_achieved:.1%} removed[/bold]")
    console.print(_costs(result))
    if result.search is not None:
        _search(result.search, console)
    if result.joint is not None:
        _joint(result.joint, console)
    a = result.accuracy
    told = " → ".join(f"{name} {value:.4f}" for name, value in a.measured.items())
    console.print(f"Test accuracy: {told}", soft_wrap=True)
    error = result.verified.max_relative_error
    console.print(f"Proof: equal to the masked dense network, largest relative error {error:.1e}")
    for reason in result.verified.groups_frozen:
        console.print(f"[yellow]Frozen by the proof:[/yellow] {escape(reason)}", soft_wrap=True)
    if result.verified.inexact:
        console.print(
            f"Inexact: {len(result.verified.inexact)} norms take their statistics over the channels that stay, "
            f"in the proof as in the network (e.g. {escape(result.verified.inexact[0])})",
            soft_wrap=True,
        )
    console.print(
        f"Wrote [bold]{escape(result.artifact)}[/bold] in {sum(result.seconds.values()):.1f} s", soft_wrap=True
    )
    for file in result.files:
        if file.endswith(".html"):
            console.print(f"Report: [bold]{escape(file)}[/bold]", soft_wrap=True)
    for line in result.missed:
        console.print(f"[red]Quality gate missed:[/red] {escape(line)}", soft_wrap=True)


def show_plan(result: PlanResult, console: Console) -> None:
    """What every layer would keep, and what the network would cost."""
    console.print(f"[bold]{_named(result)}: {result.criterion}, {result.rate_achieved:.1%} would be removed[/bold]")
    _show_layers(result.layers, console)
    console.print(_costs(result))
    if result.search is not None:
        _search(result.search, console)
    if result.predicted is not None:
        console.print(f"Predicted change of the logits before compensation (mean square): {result.predicted:.4g}")
    console.print(f"Proof: the cut holds, largest relative error {result.verified.max_relative_error:.1e}")
    console.print(f"Dry run of {sum(result.seconds.values()):.1f} s: nothing was written")
    for line in result.missed:
        console.print(f"[red]Quality gate missed:[/red] {escape(line)}", soft_wrap=True)


def show_compare(result: CompareResult, console: Console) -> None:
    """Both networks side by side, and what they agree on."""
    a, b, lat = result.a, result.b, result.latency_ms
    console.print(f"[bold]{escape(f'{a.source} against {b.source} on {result.data}')}[/bold]", soft_wrap=True)
    table = Table()
    for column, justify in (("", "left"), ("A", "right"), ("B", "right"), ("change", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_row("network", escape(a.model), escape(b.model), "")
    for name, one, two in (("test accuracy", a.accuracy, b.accuracy), ("loss (nats)", a.loss, b.loss)):
        table.add_row(name, f"{one:.4f}", f"{two:.4f}", f"{two - one:+.4f}")
    for name in ("params", "macs", "bytes"):
        before, after = getattr(a, name), getattr(b, name)
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.1%}" if before else "-")
    times = (f"{lat.a.median:.2f}", f"{lat.b.median:.2f}", f"{lat.ratio.median:.1%}")
    table.add_row("latency, batch 1 (ms)", *times)
    console.print(table)
    console.print(
        f"Equal predictions: {result.agreement:.2%} of {result.samples:,} test samples; "
        f"mean KL divergence of B from A {result.kl:.4g} nats",
        soft_wrap=True,
    )
    console.print(
        f"B is {'as fast as A' if lat.verdict == 'same' else lat.verdict + ' than A'} "
        f"({lat.n} alternating rounds on {escape(lat.device)})",
        soft_wrap=True,
    )
    for gate in result.gates:
        told = "[green]Quality gate passed:[/green]" if gate.passed else "[red]Quality gate missed:[/red]"
        console.print(f"{told} {escape(gate.message)}", soft_wrap=True)


def _costs(result: PruneResult | PlanResult) -> Table:
    table = Table()
    for column, justify in (("", "left"), ("dense", "right"), ("pruned", "right"), ("kept", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name in ("channels", "params", "macs", "bytes"):
        change = getattr(result, name)
        share = change.after / change.before
        table.add_row(name, f"{change.before:,.0f}", f"{change.after:,.0f}", f"{share:.1%}")
    lat = result.latency_ms
    table.add_row("latency, batch 1 (ms)", f"{lat.before:.2f}", f"{lat.after:.2f}", f"{lat.after / lat.before:.1%}")
    return table


def _search(search: Search, console: Console) -> None:
    table = Table(title=f"Rates tried on validation samples (dense accuracy {search.dense:.4f})")
    follows = any(p.distilled is not None for p in search.probes)
    for column in ("rate", "predicted loss", "measured loss", *["distilled"] * follows, "accuracy"):
        table.add_column(column, justify="right")
    for p in search.probes:
        predicted, after = ("-" if value is None else f"{value:.4g}" for value in (p.predicted, p.distilled))
        table.add_row(f"{p.rate:.3f}", predicted, f"{p.measured:.4g}", *[after] * follows, f"{p.accuracy:.4f}")
    console.print(table)
    if search.correlation is not None:
        console.print(f"Correlation of predicted and measured loss: {search.correlation:.3f}")


def _joint(trace: JointTrace, console: Console) -> None:
    """How the cut was learned: the last moment before surgery, layer by layer."""
    last = trace.masks[-1]["layers"] if trace.masks else {}
    if last:
        table = Table(title=f"{trace.method}: masks after {trace.learning} of {len(trace.epochs)} epochs")
        for column in ("layer", "removed", "lambda", "binarity"):
            table.add_column(column, justify="left" if column == "layer" else "right")
        for name, row in last.items():
            table.add_row(escape(name), f"{row['removed']:.1%}", f"{row['lambda']:.2g}", f"{row['binarity']:.3f}")
        console.print(table)
    shown = ", ".join(f"{100 * e['validation_accuracy']:.2f}" for e in trace.epochs)
    console.print(f"Validation accuracy by epoch (%): {shown}; cut after epoch {trace.learning}", soft_wrap=True)
    if trace.handover is not None:
        console.print(f"Surgery changed the outputs by {trace.handover:.1e} (relative)")


def show_train(result: TrainResult, console: Console) -> None:
    """The epochs and the test accuracy of the last one."""
    console.print(f"[bold]{result.command}: {_named(result)}[/bold]")
    table = Table()
    for column in ("epoch", "loss", "train accuracy", "validation accuracy"):
        table.add_column(column, justify="right")
    for e in result.epochs:
        values = (e["loss"], e["train_accuracy"], e["validation_accuracy"])
        table.add_row(str(e["epoch"]), *(f"{v:.4f}" for v in values))
    console.print(table)
    if result.joint is not None:
        _joint(result.joint, console)
    console.print(f"Test accuracy: {result.accuracy.before:.4f} → {result.accuracy.after:.4f} (last epoch)")
    console.print(
        f"Wrote [bold]{escape(result.artifact)}[/bold] in {sum(result.seconds.values()):.1f} s", soft_wrap=True
    )


def show_evaluate(result: EvaluateResult, console: Console) -> None:
    """Accuracy and loss on the test split, beside what the file claims."""
    claim = "" if result.recorded is None else f"  (the file records {result.recorded:.4f})"
    console.print(
        f"{_named(result)}: test accuracy {result.accuracy:.4f}{claim}, "
        f"loss {result.loss:.4f} nats, {result.samples} samples",
        soft_wrap=True,
    )


def show_export(result: ExportResult, console: Console) -> None:
    """The file, its check, and how long both networks take."""
    inputs = ", ".join(f"{i['dtype']} ({', '.join(map(str, ['N', *i['shape']]))})" for i in result.inputs)
    v = result.verified
    sizes = " and ".join(map(str, v.batches))
    console.print(
        f"Checked against the network on {sizes} random inputs: largest relative error {v.max_relative_error:.1e} "
        f"(allowed {v.tolerance:.0e})",
        soft_wrap=True,
    )
    if result.latency:
        console.print(_latency(result.latency))
        first = result.latency[0]
        threads = f", {first.threads} CPU thread{'s' * (first.threads > 1)}" if first.device == "cpu" else ""
        console.print(
            f"Milliseconds in torch on {first.device}{threads}: median (quartiles) of {first.n} alternating runs."
        )
    for row in result.latency:
        said = f"pruned takes {row.ratio.median:.2f}x the time at batch {row.batch}"
        console.print(
            {
                "faster": f"Faster: {said}.",
                "same": f"No speed-up on this machine: {said}, within the spread.",
                "slower": f"No speed-up on this machine: {said}; it is slower.",
            }[row.verdict],
            soft_wrap=True,
        )
    console.print(
        f"Wrote [bold]{escape(result.artifact)}[/bold]: {result.format}, {result.bytes:,} bytes, takes {inputs}",
        soft_wrap=True,
    )


def show_report(result: ReportResult, console: Console) -> None:
    """A table per stage, and the last stage as a plot."""
    rates = sorted({row.rate for row in result.rows})
    last = stages(result)[-1]
    for stage in stages(result):
        title = f"{_named(result)}: test accuracy (%), {stage}; dense {100 * result.dense:.2f}"
        console.print(f"[bold]{title}[/bold]", soft_wrap=True)
        table = Table()
        table.add_column("criterion")
        for rate in rates:
            table.add_column(f"{100 * rate:g} %", justify="right")
        for name, rows in by_criterion(result).items():
            table.add_row(name, *(_spread(getattr(row, stage), row.seeds) for row in rows))
        console.print(table)
    lines = {
        name: [(100 * row.rate_achieved, 100 * getattr(row, last)[0]) for row in rows]
        for name, rows in by_criterion(result).items()
    }
    if len(rates) > 1:
        console.print(plot(lines, x_label="channels removed (%)", y_label=f"test accuracy, {last} (%)"))
    for file in result.files:
        if Path(file).parent.name != FOLDER:
            console.print(f"Wrote [bold]{escape(file)}[/bold]", soft_wrap=True)


def _named(result: PruneResult | PlanResult | ReportResult | TrainResult | EvaluateResult) -> str:
    """Network and data, safe inside Rich markup."""
    return escape(f"{result.model} on {result.data}")


def _spread(value: tuple[float, float] | None, seeds: int) -> str:
    if value is None:
        return "-"
    return f"{100 * value[0]:.2f} ±{100 * value[1]:.2f}" if seeds > 1 else f"{100 * value[0]:.2f}"


def _show_layers(rows: list[LayerRow], console: Console) -> None:
    console.print(_layers(rows))
    for row in rows:
        if row.frozen is not None:
            console.print(f"Not cut: {row.name} ({row.channels} channels): {row.frozen}", soft_wrap=True, markup=False)


def _layers(rows: list[LayerRow]) -> Table:
    table = Table()
    table.add_column("layer", overflow="fold")
    for column in ("channels", "kept", "MACs", "min", "median", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if row.frozen is None:
            numbers = (f"{row.quantiles[i]:.1e}" for i in (0, 2, 4))
            table.add_row(row.name, str(row.channels), str(row.kept), f"{row.macs_share:.1%}", *numbers)
    return table


def _latency(rows: list[LatencyRow]) -> Table:
    table = Table()
    for column in ("batch", "dense", "pruned", "pruned / dense"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(str(row.batch), *(_quartiles(q) for q in (row.dense, row.pruned, row.ratio)))
    return table


def _quartiles(q: Quartiles) -> str:
    return f"{q.median:.2f} ({q.low:.2f} to {q.high:.2f})"
