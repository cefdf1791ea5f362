"""Figures as PNG, on white."""

import io
import warnings

from infprune.report.markup import printable
from infprune.report.scene import PALETTE, WIDTH, Area, Label, Scene

SCALE = 2  # pixels of the file per pixel of the figure
_ALIGN = {"start": "left", "middle": "center", "end": "right"}


def png(scene: Scene) -> bytes:
    """Draw the marks with matplotlib; the same scene gives the same bytes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Polygon  # noqa: PLC0415

    figure = Figure(figsize=(WIDTH / 100, scene.height / 100), dpi=100 * SCALE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(scene.height, 0))
    axes.axis("off")
    for mark in scene.marks:
        colour = "none" if mark.role == "none" else PALETTE[mark.role][0]
        if isinstance(mark, Label):
            text = axes.text(
                mark.x, mark.y, printable(mark.text), color=colour, fontsize=0.66 * mark.size, parse_math=False
            )
            text.set(ha=_ALIGN[mark.anchor], va="baseline", rotation=90 * mark.upwards, rotation_mode="anchor")
        elif isinstance(mark, Area):
            axes.add_patch(Polygon(mark.points, color=colour, linewidth=0, zorder=2))  # of a line: marks stay in order
        else:
            dashes = (0, (3, 3)) if mark.dashed else "-"
            xs, ys = zip(*mark.points, strict=True)
            axes.add_line(Line2D(xs, ys, color=colour, linewidth=0.72 * mark.width, linestyle=dashes))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it; SVG and page have the letter
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
