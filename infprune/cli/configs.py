"""`infprune configs`: list, show and copy the shipped configurations."""

from pathlib import Path
from typing import Annotated

import typer

from infprune.cli.options import shipped_names
from infprune.cli.running import execute
from infprune.errors import ConfigError
from infprune.progress import Progress

ShippedName = Annotated[str, typer.Argument(help="Name of a shipped config.", autocompletion=shipped_names)]

app = typer.Typer(help="List, show and copy the shipped configurations.", no_args_is_help=True)


def _shipped(name: str) -> str:
    from infprune.config import shipped  # noqa: PLC0415 - keeps --help fast

    found = shipped()
    if name not in found:
        raise ConfigError(f"no shipped config named {name}; there are: {', '.join(found)}")
    return found[name].read_text(encoding="utf-8")


def _print(work: object) -> None:
    execute("configs", work, lambda text, console: console.out(text, highlight=False), as_json=False, quiet=False)  # type: ignore[arg-type]


@app.command("ls")
def ls() -> None:
    """List the shipped configurations. Example: [bold]infprune configs ls[/bold]."""

    def work(_: Progress) -> str:
        from infprune.config import shipped  # noqa: PLC0415

        lines = []
        for name, path in shipped().items():
            first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            lines.append(f"{name:20s} {first}")
        return "\n".join(lines)

    _print(work)


@app.command("show")
def show(name: ShippedName) -> None:
    """Print a shipped configuration. Example: [bold]infprune configs show digits[/bold]."""
    _print(lambda _: _shipped(name).rstrip())


@app.command("cp")
def cp(
    name: ShippedName,
    target: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("infprune.yaml"),
) -> None:
    """Copy a shipped configuration; an existing file is kept.

    Example: [bold]infprune configs cp digits my.yaml[/bold]
    """

    def work(_: Progress) -> str:
        from infprune.files import atomic_write, is_file, is_folder  # noqa: PLC0415

        text = _shipped(name)
        if is_file(target) or is_folder(target):
            raise ConfigError(f"{target} exists; give another name or remove it first")
        atomic_write(target, text)
        return f"Wrote {target}"

    _print(work)
