"""Whether a loss tells members of the training set from others."""

import torch
from torch import Tensor


def attack_auc(members: Tensor, others: Tensor) -> float:
    """Area under the ROC curve of "a small loss means trained on": P(loss of a member < loss of another), ties half.

    .5: the loss tells nothing. The simplest membership inference (Yeom et al. 2018): no shadow models, so it bounds
    what a better attack finds from below.

    Args:
        members: losses of samples that were trained on, `(m,)`.
        others: losses of samples of the same kind that were not, `(n,)`.
    """
    both = torch.cat([members, others]).double()
    values, places = torch.unique(both, return_inverse=True)
    counts = torch.zeros(len(values), dtype=torch.float64).index_add_(0, places, torch.ones(len(both)).double())
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[places]  # of tied values the mean
    m, n = len(members), len(others)
    smaller = float(ranks[m:].sum()) - n * (n + 1) / 2  # pairs in which the member's loss is the smaller one
    return smaller / (m * n)
