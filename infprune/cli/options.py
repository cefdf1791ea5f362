"""Options that several commands share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from infprune.errors import ConfigError

XML = ".xml"


def shipped_names(incomplete: str) -> list[str]:
    """Complete the name of a shipped configuration; where none fits, shells go on to files."""
    from infprune.config import shipped  # noqa: PLC0415 - keeps --help fast

    return [name for name in shipped() if name.startswith(incomplete)]


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="A YAML file or a shipped config; default ./infprune.yaml, else digits.",
        autocompletion=shipped_names,
    ),
]
TableOption = Annotated[
    str | None, typer.Option("--table", metavar="FORMAT", help="Write all rows as a table too: csv or parquet.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. data.batch_size=64.")
]
CriterionOption = Annotated[str | None, typer.Option(help="influence, theorem1, gate, inf-cp, taylor, ...")]
MethodOption = Annotated[
    str | None,
    typer.Option(
        help="standard; cut midway in fine-tuning; or learn the cut by it: inf-cp, slimming (see section joint)."
    ),
]
OutputOption = Annotated[str | None, typer.Option("--output", "-o", help="The file to write.")]
JunitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the quality gates as JUnit XML (.xml).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random but the data split.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="CPU threads.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="float32, bf16 or auto: of training and of the calibration pass."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue from the run folder's last checkpoint.")]


def file_first(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The file that a command's words may begin with, and the overrides behind it."""
    from infprune.files import is_file  # noqa: PLC0415 - as below

    given = words or []
    named = bool(given) and ("=" not in given[0] or is_file(given[0]))
    return (Path(given[0]), given[1:]) if named else (None, given)


def check_junit(junit: Path | None, others: Iterable[str | None]) -> None:
    """Refuse to write the test report over a file of another kind.

    Raises:
        ConfigError: it is not called .xml, or is one of the command's `others`.
    """
    if junit is None:
        return
    if junit.suffix != XML:
        raise ConfigError(f"--junit: expected a name that ends in {XML}, got {junit}")
    from infprune.files import same_place  # noqa: PLC0415 - as above

    if any(file is not None and same_place(file, junit) for file in others):
        raise ConfigError(f"--junit: {junit} is another file of this command; give another name")


def overridden(overrides: list[str] | None, **options: object) -> list[str]:
    """Options as overrides, after those of the command line: `prune__rate=0.5` becomes `prune.rate=0.5`."""
    words = [f"{key.replace('__', '.')}={_yaml(value)}" for key, value in options.items() if value is not None]
    return [*(overrides or []), *words]


def _yaml(value: object) -> str:
    import yaml  # noqa: PLC0415 - not needed for --help

    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6)
        .strip()
        .removesuffix("\n...")
        .removesuffix("...")
        .strip()
    )
