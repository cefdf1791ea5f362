"""GraNd: how hard a sample pulls at the weights early in training (Paul, Ganguli and Dziugaite 2021)."""

import torch
from torch import Tensor, nn

from infprune.attribution.contract import Measured, Method, Need, Parts, ScoringInputs
from infprune.attribution.early import averaged, seeds
from infprune.attribution.per_sample import gradients
from infprune.curvature.objective import Objective
from infprune.curvature.space import ParameterSpace


def compute(inputs: ScoringInputs) -> Measured:
    r"""Score every sample by the norm of its gradient in all weights, averaged over seeds, after the first epochs.

    .. math:: s_n = E \, |\nabla_\theta \ell(f(x_n; \theta), y_n)|_2

    Paul et al. (2021), definition 2.1, with batch norm in eval mode, where samples do not depend on each other. LARGER
    is harder.

    Raises:
        ArchitectureError: the network cannot be mapped over samples.
    """
    return averaged(inputs, _norms)


def parts(inputs: ScoringInputs) -> Parts:
    """One training per seed."""
    return seeds(inputs, _norms)


def _norms(inputs: ScoringInputs, module: nn.Module) -> Tensor:
    objective = Objective(module, ParameterSpace.of(module), inputs.batches(inputs.train))
    return torch.cat([g.norm(dim=1) for g in gradients(objective, inputs.options.memory)])


GRAND = Method(compute, "nats per weight", "hard: it pulls at the weights early in training", Need.TRAINING, parts)
