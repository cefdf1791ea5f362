"""Tables and lines that many results share: for the terminal and as Markdown."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def table(heads: Sequence[str], cells: Sequence[Sequence[str]], left: int) -> Table:
    """A Rich table whose first `left` columns are text."""
    found = Table()
    for i, head in enumerate(heads):
        found.add_column(head, justify="left" if i < left else "right", overflow="fold")
    for row in cells:
        found.add_row(*map(escape, row))
    return found


def markdown_table(heads: Sequence[str], cells: Sequence[Sequence[str]], left: int) -> list[str]:
    """The lines of a Markdown table whose first `left` columns are text."""
    marks = ["---" if i < left else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(line)} |" for line in (heads, marks, *cells)]


def wrote(files: Sequence[str], console: Console) -> None:
    """Tell which files were written."""
    for file in files:
        console.print(f"Wrote [bold]{escape(file)}[/bold]", soft_wrap=True)
