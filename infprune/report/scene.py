"""A figure as marks on a canvas, in pixels, y downwards; drawn as SVG and as PNG from the same marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]

# What a mark means -> its colour on a light and on a dark page. c0 to c7: after Okabe and Ito (2008).
PALETTE = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#1b1f24", "#e6e9ed"),
    "muted": ("#59636e", "#9aa4af"),
    "grid": ("#dfe3e8", "#30363d"),
    "kept": ("#0072b2", "#4aa8e0"),
    "gone": ("#f0b68a", "#7d4a24"),
    "lost": ("#d55e00", "#f0803c"),
    "frozen": ("#9aa4af", "#68727d"),
    "c0": ("#0072b2", "#4aa8e0"),
    "c1": ("#d55e00", "#f0803c"),
    "c2": ("#009e73", "#2cc79a"),
    "c3": ("#cc79a7", "#e29cc2"),
    "c4": ("#b87f00", "#e6a91a"),
    "c5": ("#3a95c9", "#a3d8f7"),
    "c6": ("#1b1f24", "#ffffff"),
    "c7": ("#7c858f", "#aeb6bf"),
}
LARGE, SMALL = 12.0, 11.0  # sizes of text
WIDTH = 420  # of every figure: legible without scaling on a telephone


@dataclass(frozen=True)
class Line:
    """A polyline."""

    points: Sequence[Point]
    role: str = "ink"
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Area:
    """A filled polygon; `hint` is told where a pointer rests on it. The role "none" has no colour, only the hint."""

    points: Sequence[Point]
    role: str
    hint: str = ""


@dataclass(frozen=True)
class Label:
    """Text on its baseline; `upwards`: turned to run from bottom to top."""

    x: float
    y: float
    text: str
    role: str = "ink"
    anchor: Literal["start", "middle", "end"] = "start"
    size: float = SMALL
    upwards: bool = False


@dataclass(frozen=True)
class Scene:
    """A figure: `name` for files, a title, and a description for those who do not see it."""

    name: str
    title: str
    description: str
    height: float
    marks: Sequence[Line | Area | Label]


def box(x: float, y: float, width: float, height: float, role: str, hint: str = "") -> Area:
    """Return a rectangle by its upper left corner."""
    return Area(((x, y), (x + width, y), (x + width, y + height), (x, y + height)), role, hint)


def shortened(text: str, letters: int) -> str:
    """Text without its middle, if it is longer."""
    if len(text) <= letters:
        return text
    tail = letters * 2 // 3
    return f"{text[: letters - tail - 1]}…{text[-tail:]}"
