"""One number per sample as text, for files of measurements."""

import base64

import numpy as np
import torch
from torch import Tensor


def packed(values: Tensor) -> str:
    """A vector `(N,)` as base64 of float64."""
    return base64.b64encode(values.double().numpy().tobytes()).decode()


def unpacked(text: str) -> Tensor:
    """The vector that was packed."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text)).copy())


def is_packed(value: object, count: int) -> bool:
    """Whether a value that was read back is a packed, finite vector of `count` numbers."""
    if not isinstance(value, str):
        return False
    try:
        found = unpacked(value)
    except ValueError:
        return False
    return len(found) == count and bool(torch.isfinite(found).all())
