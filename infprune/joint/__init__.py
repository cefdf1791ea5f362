"""Pruning that is learned while fine-tuning: what takes part in the training loop, and what it decides."""

from infprune.joint.inf_cp import InfCp
from infprune.joint.slimming import Slimming

__all__ = ["InfCp", "Slimming"]
