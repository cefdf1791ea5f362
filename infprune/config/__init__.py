"""The configuration: its sections, and how it is read and written."""

from infprune.config.layers import given
from infprune.config.read import assemble, dump, load, shipped
from infprune.config.schema import (
    CRITERIA,
    Config,
    Criterion,
    DataConfig,
    FinetuneConfig,
    InputConfig,
    ModelConfig,
    PruneConfig,
    RunConfig,
    ScoreConfig,
    TrainConfig,
)

__all__ = [
    "CRITERIA",
    "Config",
    "Criterion",
    "DataConfig",
    "FinetuneConfig",
    "InputConfig",
    "ModelConfig",
    "PruneConfig",
    "RunConfig",
    "ScoreConfig",
    "TrainConfig",
    "assemble",
    "dump",
    "given",
    "load",
    "shipped",
]
