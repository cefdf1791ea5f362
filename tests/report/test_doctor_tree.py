"""The doctor's tree at a fixed width, compared as text and as colours."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from infprune.pipeline.doctor_results import Diagnosis, DoctorResult, Extent, SliceRow
from infprune.pipeline.results import Change
from infprune.report.doctor_tree import show_doctor


def diagnosis(name, channels=4, frozen=None, inexact=None, slices=(), **fields):
    made = SliceRow(f"{name}.weight", 0, "producer", fields.pop("positions", 1))
    return Diagnosis(name, channels, 0.25, 0.125, frozen, inexact, fields.pop("gated", False), [made, *slices])


READERS = [SliceRow(f"blocks.{i}.weight", 1, "consumer", 1) for i in range(6)]
RESULT = DoctorResult(
    model="net",
    source=None,
    weights="random",
    inputs=[{"shape": [7], "dtype": "int64"}, {"shape": [3, 4, 4], "dtype": "float32"}],
    prunable=Extent(2, 1004),
    total=Extent(4, 1018),
    params=Change(2000, 500),
    macs=Change(100_000, 1000),
    layers=[
        diagnosis("stem", slices=[SliceRow("norm.weight", 0, "through", 1), *READERS]),
        diagnosis("[odd]", 1000, inexact="statistics of norm", slices=[SliceRow("at@width[0]", 0, "size", 1)]),
        diagnosis("mid", frozen="not tried", positions=12, gated=True),
        diagnosis("head", 10, frozen="no rule for sort at net.py:3 `x[0].sort()`"),
    ],
    untried=1,
    stopped="240 of 300 s are over",
    seconds={"load": 1.5, "coupling": 2.0},
    peak_bytes=3 * 2**29,
)


def text(result, *, colours=False, **options):
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=colours, color_system="standard" if colours else None)
    show_doctor(result, console, **options)
    return stream.getvalue()


def test_the_tree():
    reach = "99.0% of the MACs and 75.0% of the parameters in reach"
    stopped = "more may be prunable than shown; layers not tried: 1. Allow more with --seconds or --memory."
    shown = [line.rstrip() for line in text(RESULT).splitlines()]
    assert shown == [
        f"2 of 4 layers prunable (1 of them inexactly), 1,004 of 1,018 channels; {reach}",
        "net on int64 (N, 7) and float32 (N, 3, 4, 4), random weights: 2,000 parameters, 100,000 MACs",
        "├── stem          4 channels,  25.0% of MACs,  12.5% of parameters",
        "│   └── stem → norm → blocks.0, blocks.1, blocks.2 and 3 more",
        "├── [odd]     1,000 channels,  25.0% of MACs,  12.5% of parameters",
        "│   ├── inexact: statistics of norm",
        "│   ├── [odd]",
        "│   └── attributes that follow: at.width[0]",
        "├── mid      4 × 12 channels,  25.0% of MACs,  12.5% of parameters",
        "│   ├── frozen: not tried",
        "│   └── mid",
        "└── head         10 channels,  25.0% of MACs,  12.5% of parameters",
        "    ├── frozen: no rule for sort at net.py:3 `x[0].sort()`",
        "    └── head",
        f"Stopped early, 240 of 300 s are over: {stopped}",
        "Took 3.5 s, at most 1.5 GiB of memory",
    ]


def test_verbose_shows_every_tensor():
    shown = text(RESULT, verbose=True)
    for i in range(6):
        assert f"blocks.{i}.weight dimension 1: reads them" in shown
    assert "at.width[0]: counts them" in shown
    assert "mid.weight dimension 0: makes them, 12 entries for each channel" in shown
    assert shown.count("read by a product or function, so measured where it is made") == 1


@pytest.mark.parametrize(("name", "code"), [("stem", 32), ("[odd]", 33), ("mid", 33), ("head", 31)])
def test_colours_tell_the_fate(name, code):
    assert f"\x1b[{code}m{name}\x1b[0m" in text(RESULT, colours=True)


def test_nothing_prunable_and_nothing_multiplied():
    nothing = replace(RESULT, prunable=Extent(0, 0), untried=0, stopped=None, peak_bytes=0)
    shown = text(nothing)
    assert shown.startswith("Nothing is prunable: 4 layers, all frozen\n")
    assert shown.endswith("Took 3.5 s\n")
    assert "Stopped" not in shown
    assert "; 75.0% of the parameters in reach" in text(replace(RESULT, macs=Change(0, 0)))
