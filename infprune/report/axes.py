"""Axes of figures: values -> pixels, round ticks, frames and legends."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infprune.report.scene import LARGE, SMALL, WIDTH, Area, Label, Line, Point

DECADES = 1e-6  # least of a logarithmic axis, as a share of its largest value
LETTER = 0.58  # mean width of a letter, in units of the size of the text


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`; logarithmic or not."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; what lies outside is put on the edge."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self._least)))
        share = (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    @property
    def _least(self) -> float:
        return self.low if self.log else -math.inf

    def ticks(self) -> list[tuple[float, str]]:
        """Round values with their text: about five, or powers of ten."""
        if self.log:
            return _powers(self.low, self.high)
        step = _step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            (i * step, f"{i * step:.{digits}f}" if digits < 5 else f"{i * step:.1e}") for i in range(first, last + 1)
        ]


def fitted(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Axis:
    """Return an axis that holds the values, with round ends where it is linear.

    Logarithmic only if asked, if no value is negative and they span more than a decade; zeros, and what is a million
    times less than the largest value, then fall on the lower edge.
    """
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    positive = [value for value in found if value > 0]
    if log and low >= 0 and positive and high > 10 * min(positive):
        least = max(min(positive), high * DECADES)
        margin = (high / least) ** 0.03
        return Axis(least / margin, high * margin, start, end, log=True)
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    step = _step((high - low) / 5)
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)


def frame(x: Axis, y: Axis, x_label: str, y_label: str) -> list[Line | Label]:
    """Grid, ticks and labels of a plot; the x axis may run to the left."""
    marks: list[Line | Label] = []
    left = min(x.start, x.end)
    for value, text in y.ticks():
        at = y.at(value)
        marks.append(Line(((x.start, at), (x.end, at)), "grid"))
        marks.append(Label(left - 6, at + 4, text, "muted", "end"))
    for value, text in x.ticks():
        at = x.at(value)
        marks.append(Line(((at, y.start), (at, y.end)), "grid"))
        marks.append(Label(at, y.start + 16, text, "muted", "middle"))
    marks.append(Label((x.start + x.end) / 2, y.start + 34, x_label, "ink", "middle", LARGE))
    marks.append(Label(12, (y.start + y.end) / 2, y_label, "ink", "middle", LARGE, upwards=True))
    return marks


def legend(entries: Sequence[tuple[str, str, str]], top: float) -> tuple[list[Area | Label], float]:
    """Return markers with names, in as many rows as they need, and where the next thing may start.

    Args:
        entries: (shape, role, text) of each.
        top: of the first row.
    """
    marks: list[Area | Label] = []
    x, y = 8.0, top
    for shape, role, text in entries:
        width = 18 + LETTER * SMALL * len(text) + 12
        if x > 8 and x + width > WIDTH:
            x, y = 8.0, y + 17
        marks += [marker(shape, (x + 6, y + 7), role), Label(x + 16, y + 11, text)]
        x += width
    return marks, y + 22


SHAPES = ("circle", "square", "diamond", "up", "down", "plus", "star", "cross")
_PLUS = ((-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1))
_POLYGONS: dict[str, list[Point]] = {
    "square": [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
    "diamond": [(0, -5), (5, 0), (0, 5), (-5, 0)],
    "up": [(0, -4.8), (4.6, 3.6), (-4.6, 3.6)],
    "down": [(0, 4.8), (-4.6, -3.6), (4.6, -3.6)],
    "plus": [(1.5 * x, 1.5 * y) for x, y in _PLUS],
    "cross": [(1.06 * (x - y), 1.06 * (x + y)) for x, y in _PLUS],
    "circle": [(4.2 * math.cos(a * math.pi / 10), 4.2 * math.sin(a * math.pi / 10)) for a in range(20)],
    "star": [
        ((5.5, 2.3)[i % 2] * math.sin(i * math.pi / 5), -(5.5, 2.3)[i % 2] * math.cos(i * math.pi / 5))
        for i in range(10)
    ],
}


def marker(shape: str, at: Point, role: str, hint: str = "") -> Area:
    """Return a point of a plot."""
    return Area([(at[0] + x, at[1] + y) for x, y in _POLYGONS[shape]], role, hint)


def rows_axis(x: Axis, top: float, bottom: float, label: str) -> list[Line | Label]:
    """Vertical grid, ticks and label of a figure whose rows have names."""
    marks: list[Line | Label] = []
    for value, text in x.ticks():
        at = x.at(value)
        marks.append(Line(((at, top), (at, bottom)), "grid"))
        marks.append(Label(at, bottom + 14, text, "muted", "middle"))
    marks.append(Label((x.start + x.end) / 2, bottom + 31, label, "ink", "middle", LARGE))
    return marks


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first < 2:  # too few powers of ten
        found = [m * 10.0**i for i in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [(value, f"{value:g}") for value in found if low <= value <= high]
    every = max(1, -(-(last - first + 1) // 6))
    return [(10.0**i, f"1e{i}" if abs(i) > 2 else f"{10.0**i:g}") for i in range(first, last + 1, every)]
