"""infprune: structured pruning by parameter influence."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"


def load(path: str | Path, factory: str | None = None, device: str = "cpu") -> "nn.Module":
    """Rebuild a pruned network from its `.safetensors` file; see `infprune.artifacts.load`."""
    from infprune.artifacts import load as load_artifact  # noqa: PLC0415 - `import infprune` must not import torch

    return load_artifact(path, factory=factory, device=device).module
