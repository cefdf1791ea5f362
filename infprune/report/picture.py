"""Images inside a page."""

import base64
import io
import math
from typing import Any

from infprune.pipeline.pictures import Picture
from infprune.report.markup import Markup, tag

SIDE = 96  # pixels of the page, about


def shown(picture: Picture, alt: str) -> Markup:
    """Return the image as an element that holds it."""
    data = base64.b64encode(encoded(picture)).decode()
    scale = max(1, math.ceil(SIDE / max(picture.height, picture.width)))
    size = {"width": scale * picture.width, "height": scale * picture.height}
    return tag("img", src=f"data:image/png;base64,{data}", alt=alt, class_="pixels", **size)


def encoded(picture: Picture) -> bytes:
    """Return the image as PNG; the same picture gives the same bytes."""
    import numpy as np  # noqa: PLC0415 - slow to import
    from matplotlib.image import imsave  # noqa: PLC0415

    values = np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, picture.channels)
    buffer = io.BytesIO()
    told: dict[str, Any] = {"Software": None}  # a version would make other bytes
    imsave(buffer, np.broadcast_to(values, (*values.shape[:2], 3)).copy(), format="png", metadata=told)
    return buffer.getvalue()
