"""Theorem 1 in gate space, one gate after the other: a nested order of all channels."""

import torch
from torch import Tensor

ROUNDS = 1024  # of `eliminate_wide`
REFRESH = 128  # rounds between two fresh inversions


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


def eliminate_wide(Z: Tensor, damping: float, together: int | None = None) -> Tensor:
    r"""`eliminate_gates` of F = Z^T Z / N + `damping` I for more gates than samples, without ever holding F.

    With Y = Z / sqrt(N), A the gates that remain and R those that have gone, everything follows from the N x N matrix
    M = (damping I + Y_A Y_A^T)^-1 (Woodbury):

    .. math:: [F_{AA}^{-1}]_{cd} = (\delta_{cd} - y_c^T M y_d) / \text{damping}, \quad
              g_A = 1 + Y_A^T M \sum_{p \in R} y_p

    Several gates go at a time where there are many; the totals are exact for the order in which they go, and with one
    at a time the order is that of `eliminate_gates` too.

    Args:
        Z: gate gradients, `(N, C)`, float64.
        damping: absolute, positive.
        together: gates that go at a time; None: so many that about `ROUNDS` rounds do.

    Returns:
        `(C,)`, as `eliminate_gates`.
    """
    samples, size = Z.shape
    Y = Z / samples**0.5
    together = together or -(-size // ROUNDS)
    scores, total = Z.new_zeros(size), Z.new_zeros(())
    names = torch.arange(size, device=Z.device)  # of the columns of Y, some of which may have gone
    here = torch.ones(size, dtype=torch.bool, device=Z.device)
    gone = Z.new_zeros(samples)  # sum of the columns that have
    eye = torch.eye(samples, dtype=Z.dtype, device=Z.device)
    left = size
    for number in range(-(-size // together)):
        if number % REFRESH == 0:  # rounding errors of the downdates add up
            Y, names, here = Y[:, here], names[here], here[here]
            M = torch.cholesky_inverse(torch.linalg.cholesky((Y @ Y.T).add_(eye, alpha=damping)))
            moved = M @ gone
            taken, gates = (Y * (M @ Y)).sum(0), 1 + moved @ Y
        variance = (1 - taken).clamp_min(torch.finfo(Z.dtype).eps) / damping
        prices = torch.where(here, 0.5 * gates**2 / variance, torch.inf)
        order = prices.argsort(stable=True)[: min(together, left)]
        P = Y[:, order]
        V = M @ P
        own = torch.eye(len(order), dtype=Z.dtype, device=Z.device) - P.T @ V  # damping [F^-1]_PP
        root = torch.linalg.cholesky(own)
        paid = torch.linalg.solve_triangular(root, gates[order, None], upper=False)[:, 0]
        totals = total + 0.5 * damping * paid.square().cumsum(0)
        scores[names[order]], total = totals, totals[-1]
        half = torch.linalg.solve_triangular(root, V.T, upper=False)  # V own^-1 V^T = half^T half
        M.addmm_(half.T, half)
        gone = gone + P.sum(1)
        moved = moved + V.sum(1) + half.T @ (half @ gone)
        here[order] = False
        left -= len(order)
        seen = torch.cat([moved[None], half]) @ Y
        gates, taken = 1 + seen[0], taken + seen[1:].square().sum(0)
    return scores
