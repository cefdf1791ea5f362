"""Matplotlib, loaded when a figure is drawn, and its figures as files."""

import io
from typing import Any


def pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files."""
    import matplotlib as mpl  # noqa: PLC0415 - only for figures, and slow to import

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    return plt


def figure_png(figure: Any, dpi: int = 120) -> bytes:
    """A figure as the bytes of a PNG file; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    pyplot().close(figure)
    return buffer.getvalue()
