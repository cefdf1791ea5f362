"""Theorem 1 on H = G (x) A for all channels that a weight reads, in closed form."""

import torch
from torch import Tensor

from infprune.curvature.kfac import Block

BLOCK = 512  # columns of a weight that are widened at once


def damped(matrix: Tensor, damping: float | None) -> Tensor:
    """A copy, plus `damping` (absolute) on its diagonal; None: 1e-4 of its mean (1 if zero).

    Never less than rounding asks for: dead and duplicated channels make the matrix singular, and Cholesky then fails.
    """
    return dampen(matrix.clone(), damping)


def dampen(matrix: Tensor, damping: float | None) -> Tensor:
    """The same, written over the matrix."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    amount = damping_for(diagonal.mean(-1), matrix.shape[-1], damping)
    diagonal.add_(amount[..., None])
    return matrix


def damping_for(mean: Tensor, size: int, damping: float | None) -> Tensor:
    """What `damped` adds to matrices of this size with this mean of the diagonal."""
    amount = 1e-4 * mean if damping is None else torch.full_like(mean, damping)
    amount = torch.maximum(amount, 10 * size * torch.finfo(mean.dtype).eps * mean)
    return amount.where(amount > 0, 1.0)


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of a positive definite matrix by Cholesky."""
    return invert(matrix.clone())


def invert(matrix: Tensor) -> Tensor:
    """The inverse, written over the matrix: wide ones should exist once."""
    factor = torch.linalg.cholesky(matrix.mT, out=matrix.mT)  # transposed: in the order of LAPACK, which needs no copy
    return torch.cholesky_inverse(factor, out=factor)


def root(G: Tensor, W: Tensor) -> Tensor:
    """R with R^T R = W^T G W, `(min(O, D), D)`, for W `(O, D)` and G semidefinite up to rounding; in the type of G.

    Where the rounding of float32 sums left G with negative eigenvalues, some of the rounding of its trace cures it.

    Raises:
        torch.linalg.LinAlgError: G is indefinite beyond that, or not finite.
    """
    mean = float(G.diagonal().mean())
    if mean == 0:
        return G.new_zeros(min(W.shape), W.shape[1])
    rounding = torch.finfo(torch.float32).eps * len(G) * mean
    for cure in (0.0, 0.01 * rounding, 0.1 * rounding, rounding, 10 * rounding):
        factor, failed = torch.linalg.cholesky_ex(damped(G, cure))
        if not int(failed):
            break
    else:
        factor = torch.linalg.cholesky(damped(G, cure))
    found = G.new_empty(W.shape[1], len(G))
    for i in range(0, len(found), BLOCK):
        torch.mm(W[:, i : i + BLOCK].T.to(G), factor, out=found[i : i + BLOCK])
    return found.T if len(G) <= len(found) else _triangle(found.T)  # in columns, as elimination reads it


def _triangle(M: Tensor) -> Tensor:
    """R of M = Q R, `(D, D)`."""
    found: Tensor = torch.linalg.qr(M, mode="r").R
    return found


def printed_scores(weight: Tensor, inputs_inverse: Tensor, gradients_inverse: Tensor, columns: Tensor) -> Tensor:
    r"""Lemma 1 as printed (MU eq. 4): s = 1/2 u^T H^-1 u with u = w . theta / (H^-1 w).

    For H = G (x) A and w = 1 on all rows of the columns C, H^-1 w on C is (G^-1 1)(A^-1 1_C)^T, so
    u_oc = W_oc / ((G^-1 1)_o (A^-1 1_C)_c) and s = 1/2 tr(G^-1 U [A^-1]_CC U^T). The row sums pass through zero, where
    the printed quotient is infinite: that is the theorem's, not ours.

    Args:
        weight: W, `(O, D')`.
        inputs_inverse: A^-1, `(D, D)`.
        gradients_inverse: G^-1, `(O, O)`.
        columns: the columns of each channel, `(C, m)`.

    Returns:
        `(C,)`, in units of the loss.
    """
    own = inputs_inverse[columns[:, :, None], columns[:, None, :]]
    rows, cols = gradients_inverse.sum(1), own.sum(2)
    u = weight[:, columns] / (rows[:, None, None] * cols[None])
    moved = torch.einsum("po,ocm,cmn->pcn", gradients_inverse, u, own)
    return 0.5 * (moved * u).sum((0, 2))


def single_column_costs(block: Block, weight: Tensor) -> Tensor:
    r"""Loss change when one column of a weight is pinned at zero and the rest of the weight adapts, for all columns.

    For any H = Q diag(values) Q^T with Q = Q_G (x) Q_A (KFAC, EKFAC, either with damping) the block of the inverse that
    belongs to column c is Q_G diag_k(sum_l Q_A[c,l]^2 / values[k,l]) Q_G^T, so

    .. math:: s_c = \tfrac12 \sum_k (Q_G^T w_c)_k^2 \Big/ \sum_l \frac{Q_A[c,l]^2}{values_{kl}}

    the exact block form of Theorem 1 for H with its damping on the whole diagonal.

    Args:
        block: positive values; one group.
        weight: W in matrix form, without the bias, `(O, D')`.

    Returns:
        `(D',)`, in units of the loss.
    """
    outer, inner, values = block.outer[0], block.inner[0], block.values[0]
    spread = (1.0 / values) @ inner.square().T  # (O, D)
    carried = (outer.T @ weight.to(outer)).square()
    costs: Tensor = 0.5 * (carried / spread[:, : weight.shape[1]]).sum(0)
    return costs
