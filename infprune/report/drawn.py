"""Figures as files of a run folder."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from infprune.report.png import png
from infprune.report.scene import Scene
from infprune.report.svg import standalone

FOLDER = "figures"


def drawn(scenes: Sequence[Scene]) -> dict[str, Callable[[Any], str | bytes]]:
    """File name -> what draws it, twice per figure: SVG and PNG."""
    kinds: dict[str, Callable[[Scene, Any], str | bytes]] = {
        "svg": lambda scene, _: standalone(scene),
        "png": lambda scene, _: png(scene),
    }
    return {f"{FOLDER}/{scene.name}.{kind}": partial(draw, scene) for scene in scenes for kind, draw in kinds.items()}
