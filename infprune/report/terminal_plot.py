"""Lines in a terminal, drawn with braille dots."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.text import Text

STYLES = ("blue", "red", "green", "magenta", "yellow", "cyan", "white", "bright_black")
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # bit of a dot by its column and row within a cell


def plot(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 64, height: int = 14, x_label: str, y_label: str
) -> Text:
    """Draw lines through points `(x, y)` over their common ranges, with a legend and axis labels."""
    points = [p for line in lines.values() for p in line]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for (_, line), style in zip(lines.items(), STYLES * len(lines), strict=False):
        for x, y in _dense(line, 4 * width):
            column = round((x - left) / ((right - left) or 1) * (2 * width - 1))
            row = round((high - y) / ((high - low) or 1) * (4 * height - 1))
            bits, _ = cells.get((row // 4, column // 2), (0, style))
            cells[row // 4, column // 2] = (bits | DOTS[column % 2][row % 4], style)
    text = Text(f"{y_label}\n")
    for row in range(height):
        edge = f"{high:6.1f} " if row == 0 else f"{low:6.1f} " if row == height - 1 else " " * 7
        text.append(edge + "│")
        for column in range(width):
            bits, style = cells.get((row, column), (0, ""))
            text.append(chr(0x2800 + bits) if bits else " ", style)
        text.append("\n")
    text.append(" " * 7 + "└" + "─" * width + "\n")
    text.append(" " * 8 + f"{left:<{width // 2}.0f}{right:>{width - width // 2}.0f}\n" + " " * 8 + x_label + "\n")
    for name, style in zip(lines, STYLES * len(lines), strict=False):
        text.append("        ━━ ", style)
        text.append(f"{name}\n")
    return text


def _dense(line: Sequence[tuple[float, float]], steps: int) -> list[tuple[float, float]]:
    if len(line) < 2:
        return list(line)
    found = []
    for (x0, y0), (x1, y1) in pairwise(line):
        found += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(steps + 1)]
    return found
