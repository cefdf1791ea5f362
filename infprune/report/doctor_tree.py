"""A diagnosis for people: a summary line, then a tree of channel layers."""

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from infprune.pipeline.doctor_results import Diagnosis, DoctorResult, SliceRow

FEW = 3  # names in a line
OWNED = (".weight", ".bias", ".running_mean", ".running_var")
ROLES = {"producer": "makes them", "through": "passes them on", "consumer": "reads them", "size": "counts them"}


def show_doctor(result: DoctorResult, console: Console, *, verbose: bool = False) -> None:
    """How much can be cut, then every layer: green prunable, yellow inexact or not tried, red frozen, with reasons."""
    console.print(f"[bold]{_summary(result)}[/bold]", soft_wrap=True)
    inputs = " and ".join(f"{i['dtype']} ({', '.join(map(str, ['N', *i['shape']]))})" for i in result.inputs)
    weights = f"{result.weights} weights" if result.weights in ("shipped", "random") else f"weights of {result.weights}"
    title = f"{result.model} on {inputs}, {weights}: {result.params.before:,} parameters, {result.macs.before:,} MACs"
    tree = Tree(escape(title), guide_style="dim", highlight=False)
    width = max((len(row.name) for row in result.layers), default=0)
    for row in result.layers:
        _grow(tree.add(_headline(row, width)), row, verbose=verbose)
    console.print(tree)
    if result.stopped is not None:
        console.print(
            f"[yellow]Stopped early, {result.stopped}:[/yellow] more may be prunable than shown; layers not tried: "
            f"{result.untried}. Allow more with --seconds or --memory.",
            soft_wrap=True,
        )
    memory = f", at most {result.peak_bytes / 2**30:.1f} GiB of memory" if result.peak_bytes else ""
    console.print(f"Took {sum(result.seconds.values()):.1f} s{memory}", highlight=False)


def _summary(result: DoctorResult) -> str:
    able, total, macs, params = result.prunable, result.total, result.macs, result.params
    if able.layers == 0 and result.untried:
        return f"Nothing is known to be prunable: {result.untried} of {total.layers} layers were not tried"
    if able.layers == 0:
        return f"Nothing is prunable: {total.layers} layers, all frozen"
    inexact = sum(row.inexact is not None and row.frozen is None for row in result.layers)
    told = f" ({inexact} of them inexactly)" if inexact else ""
    reach = f"{1 - params.after / params.before:.1%} of the parameters"
    if macs.before:
        reach = f"{1 - macs.after / macs.before:.1%} of the MACs and {reach}"
    return (
        f"{able.layers} of {total.layers} layers prunable{told}, {able.channels:,} of {total.channels:,} channels; "
        f"{reach} in reach"
    )


def _colour(row: Diagnosis) -> str:
    if row.frozen is None:
        return "green" if row.inexact is None else "yellow"
    return "yellow" if row.frozen.startswith("not tried") else "red"


def _headline(row: Diagnosis, width: int) -> str:
    name = f"[{_colour(row)}]{escape(row.name)}[/]{' ' * (width - len(row.name))}"
    each = row.slices[0].positions  # 64 × 12: one index of every head
    channels = f"{row.channels:,}{f' × {each}' if each > 1 else ''} channel{'s' * (row.channels * each != 1)}"
    return f"{name}  {channels:>17}, {row.macs_share:6.1%} of MACs, {row.params_share:6.1%} of parameters"


def _grow(branch: Tree, row: Diagnosis, *, verbose: bool) -> None:
    if row.frozen is not None:
        branch.add(f"[{_colour(row)}]frozen:[/] {escape(row.frozen)}")
    if row.inexact is not None:
        branch.add(f"[yellow]inexact:[/] {escape(row.inexact)}")
    if verbose:
        if row.gated:
            branch.add("read by a product or function, so measured where it is made")
        for s in row.slices:
            each = f", {s.positions} entries for each channel" if s.positions > 1 else ""
            at = "" if s.role == "size" else f" dimension {s.dim}"
            branch.add(f"{escape(_owner(s.tensor) if s.role == 'size' else s.tensor)}{at}: {ROLES[s.role]}{each}")
        return
    stops = [_few([s for s in row.slices if s.role == role]) for role in ("producer", "through", "consumer")]
    branch.add(" → ".join(filter(None, stops)))
    sizes = _few([s for s in row.slices if s.role == "size"])
    if sizes:
        branch.add(f"attributes that follow: {sizes}")


def _few(slices: list[SliceRow]) -> str:
    """The modules that own the tensors, the first few by name."""
    names = list(dict.fromkeys(_owner(s.tensor) for s in slices))
    more = len(names) - FEW
    shown = names if more <= 1 else names[:FEW]  # a name is no longer than "and 1 more"
    return escape(", ".join(shown)) + (f" and {more} more" if len(shown) < len(names) else "")


def _owner(tensor: str) -> str:
    """The module that owns a tensor; the tensor itself if it has no usual name; `module.attribute` of a size."""
    other = tensor.strip("@").replace("@", ".")
    return next((tensor.removesuffix(end) for end in OWNED if tensor.endswith(end)), other)
