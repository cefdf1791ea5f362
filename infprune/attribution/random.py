"""Scores that know nothing: what every other method is compared with."""

import torch

from infprune.attribution.contract import Measured, Method, Need, ScoringInputs


def compute(inputs: ScoringInputs) -> Measured:
    """Draw every score uniformly from [0, 1)."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return Measured(torch.rand(len(inputs.train), dtype=torch.float64, generator=generator))


RANDOM = Method(compute, "none", "nothing: a uniform random number", Need.NOTHING)
