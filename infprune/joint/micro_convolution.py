"""The equations of INF-CP's joint training (CP eq. 8-10), as pure functions; see docs/decisions/0008."""

import torch
from torch import Tensor


def embedding(influence: Tensor, kernel: Tensor) -> Tensor:
    """E_l: the micro-convolution K_l over the influence of each weight of a filter.

    The kernel has the size of the filter, so each filter gives one number: a mean of its weights' influences, in units
    of the layer's mean, weighted by the kernel. With a kernel of ones a channel of average influence has 1.

    Args:
        influence: |theta dL/dtheta| of each weight, `(C, n)`, non-negative.
        kernel: `(n,)`.
    """
    unit = influence.sum().clamp_min(torch.finfo(influence.dtype).tiny) / len(influence)  # of an average channel
    return influence @ kernel / unit


def code(embedded: Tensor, beta: float) -> Tensor:
    """B_l = sigmoid(beta E_l), `(C,)` (CP eq. 10)."""
    return torch.sigmoid(beta * embedded)


def gate(strategy: Tensor) -> Tensor:
    """The channel mask of false pruning: B_l over its largest entry.

    At the start, where beta is small and all of B_l near 1/2, it leaves the network as it is; when B_l is binary it is
    B_l itself; and it never closes the last channel of a layer.
    """
    return strategy / strategy.detach().max()


def weight_of_penalty(kept: float, target: float) -> float:
    """Lambda of eq. 8: 5 x the share of channels that is still to go, and 0 once the target is met.

    What eq. 9 means by its text; as printed its inequality is reversed and its quantities contradict section 2.4.

    Args:
        kept: share of the layer's channels that stay, counted by their gates.
        target: share that should stay.
    """
    return 5.0 * max(0.0, kept - target)


def binarity(strategy: Tensor) -> float:
    """Mean |2 B - 1|: 0 where nothing is decided, 1 where all is."""
    return float((2 * strategy.detach() - 1).abs().mean())
