"""An estimate for people: memory, work, and what to change."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infprune.pipeline.estimate_results import EstimateResult
from infprune.units import GIB


def show_estimate(result: EstimateResult, console: Console) -> None:
    """Two tables and the advice."""
    inputs = " and ".join(f"{i['dtype']} ({', '.join(map(str, ['N', *i['shape']]))})" for i in result.inputs)
    peak = result.memory.peak if result.passes is None else result.passes.peak
    console.print(
        f"[bold]Scoring {escape(result.model)} by {result.criterion}: {peak / GIB:.2f} GiB, "
        f"{result.seconds_expected:,.0f} s on this machine[/bold]",
        soft_wrap=True,
    )
    console.print(
        f"{result.params:,} parameters, {result.macs:,} MACs, {result.channels:,} channels; {inputs}, "
        f"{result.samples:,} samples in batches of {result.batch_size}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    memory, work = result.memory, result.work
    table = Table("memory", "GiB", box=None)
    for name in ("weights", "activations", "factors", "solving", "peak", "budget"):
        table.add_row(name, f"{getattr(memory, name) / GIB:,.3f}")
    console.print(table)
    table = Table("work", "TFLOP", "s", box=None)
    table.add_row("forward, backward", tera(work.forward + work.backward), f"{work.network_seconds:,.1f}")
    table.add_row("Gram matrices", tera(work.gram), f"{work.gram_seconds:,.1f}")
    table.add_row("inversion, elimination", tera(work.factorising), f"{work.factorising_seconds:,.1f}")
    console.print(table)
    for line in result.advice:
        console.print(f"[yellow]{escape(line)}[/yellow]", soft_wrap=True, highlight=False)


def tera(flops: int) -> str:
    """In units of 10^12."""
    return f"{flops / 1e12:,.3f}"
