"""EL2N: how wrong the network is about a sample early in training (Paul, Ganguli and Dziugaite 2021)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infprune.attribution.contract import Measured, Method, Need, Parts, ScoringInputs
from infprune.attribution.early import averaged, seeds
from infprune.forward import logits


def compute(inputs: ScoringInputs) -> Measured:
    r"""Score every sample by the norm of its error, averaged over seeds, after the first epochs.

    .. math:: s_n = E \, |\mathrm{softmax}(f(x_n)) - e_{y_n}|_2

    Paul et al. (2021), definition 2.2. Between 0 and sqrt(2); LARGER is harder.
    """
    return averaged(inputs, _errors)


def parts(inputs: ScoringInputs) -> Parts:
    """One training per seed."""
    return seeds(inputs, _errors)


@torch.no_grad()
def _errors(inputs: ScoringInputs, module: nn.Module) -> Tensor:
    found = []
    for x, y in inputs.batches(inputs.train):
        p = logits(module, x).double().softmax(1)
        found.append((p - F.one_hot(y, p.shape[1])).norm(dim=1))
    return torch.cat(found)


EL2N = Method(
    compute, "norm of the error", "hard: the network is wrong about it early in training", Need.TRAINING, parts
)
