"""How much memory scoring may take; and out of memory, told with the batch size to try."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from infprune import ranks
from infprune.config import Config
from infprune.errors import ConfigError, out_of_memory
from infprune.imports import one_line
from infprune.pipeline.bounds import installed
from infprune.units import GIB

SHARE = 0.9  # of the device's memory

P = ParamSpec("P")
R = TypeVar("R")


def within_memory(run: Callable[P, R]) -> Callable[P, R]:
    """Wrap the work of a command: when memory runs out, that is a fault of the configuration, which asks for more.

    Raises:
        ConfigError: memory ran out; it says which batch sizes to try.
    """

    @wraps(run)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run(*args, **kwargs)
        except Exception as error:
            if not out_of_memory(error):
                raise
            settings = next(a for a in (*args, *kwargs.values()) if isinstance(a, Config))
            raise ConfigError(f"out of memory ({one_line(error)}); {_advice(settings)}") from error

    return told


def budget(settings: Config, device: torch.device) -> float:
    """Bytes that scoring may take on each rank, the same on all: `score.memory`, else a share of the device's."""
    if settings.score.memory is not None:
        return settings.score.memory * GIB
    if device.type == "cuda":
        here = float(torch.cuda.get_device_properties(device).total_memory)
    else:
        here = installed() / ranks.local_world()
    return float(ranks.agreed(torch.tensor(SHARE * here, dtype=torch.float64)))


def _advice(settings: Config) -> str:
    sizes = {
        f"{name}.batch_size": size
        for name in ("data", "train", "finetune")
        if (size := getattr(settings, name).batch_size) is not None
    }
    smaller = [f"{key}={size // 2} (now {size})" for key, size in sizes.items() if size > 1]
    return f"try {' and '.join(smaller)}" if smaller else "it needs a machine with more, or a smaller network"
