"""Theorem 1 in gate space, one gate after the other: a nested order of all channels."""

import torch
from torch import Tensor


def eliminate_gates(fisher: Tensor) -> Tensor:
    r"""Remove gates one by one, each time the one whose removal costs least, the others adapting.

    The quadratic is 1/2 (g - 1)^T F (g - 1). With gates R already at zero, removing p costs
    g_p^2 / (2 [F^-1]_pp), where g are the adapted gates and F^-1 the inverse over those that remain; both follow by a
    rank-one downdate. This is Theorem 1 for one parameter (MU, remark 1), repeated with theta = 1.

    Args:
        fisher: F, positive definite, `(C, C)`.

    Returns:
        `(C,)`: the total loss change once this gate and all cheaper ones are gone. Ascending along the order of
        removal, so thresholding it yields nested sets. Unit of the loss.
    """
    size = len(fisher)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher))
    gates = fisher.new_ones(size)
    total = fisher.new_zeros(())
    scores = fisher.new_zeros(size)
    gone = torch.zeros(size, dtype=torch.bool, device=fisher.device)
    for _ in range(size):
        variance = inverse.diagonal().clamp_min(torch.finfo(fisher.dtype).tiny)
        p = int(torch.where(gone, torch.inf, 0.5 * gates**2 / variance).argmin())
        total = total + 0.5 * gates[p] ** 2 / variance[p]
        scores[p] = total
        column = inverse[:, p].clone()
        gates -= column * (gates[p] / column[p])
        inverse.addr_(column, column, alpha=-1.0 / float(column[p]))
        gone[p] = True
        gates[p] = 0.0
    return scores
