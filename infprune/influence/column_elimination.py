"""Theorem 1 on H = G (x) A, one channel after the other: what each removal costs once the cheaper ones are gone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 64  # at most so many rounds per layer: wider ones remove several channels a round
ROWS = 256  # of a factor that are moved at once
SHRINK = 0.8  # compact the matrices when so much of their channels is left


@dataclass(frozen=True)
class Reader:
    """One weight that reads the channels: `inverse` = (A + damping I)^-1 `(D, D)`, `root` R `(r, D)`, R^T R = W^T G W.

    `columns` are the columns of each channel, `(C, m)`; the others stay and adapt. The root needs them alone.
    """

    inverse: Tensor
    root: Tensor
    columns: Tensor


def eliminate_columns(readers: Sequence[Reader]) -> Tensor:
    r"""Remove channels greedily, cheapest first, all remaining weights of every reader adapting after each removal.

    With the channels R already gone, the inverse curvature is that of the remaining columns and the weight is
    the adapted one (MU Theorem 1, exact block): removing C = C_p turns

    .. math:: A^{-1} \to A^{-1} - [A^{-1}]_{:C} K, \quad W \to W (I - E_C K), \quad
              K = ([A^{-1}]_{CC})^{-1} [A^{-1}]_{C:}

    The price of p is 1/2 tr(([A^{-1}]_CC)^{-1} [W^T G W]_CC) at that moment, summed over the readers.
    A channel that duplicates another is free until its twin has gone; prices of single removals, by contrast, miss
    that all copies cannot go.

    Args:
        readers: the weights that read the channels; at least one.

    Returns:
        `(C,)`: the price paid for each channel, as a running maximum along the order of removal: non-decreasing, so
        any threshold removes a prefix of the order. Unit of the loss.
    """
    count = len(readers[0].columns)
    scores = readers[0].inverse.new_zeros(count)
    here = torch.arange(count, device=scores.device)  # the channels that the states hold; some may have gone
    left = torch.ones(count, dtype=torch.bool, device=scores.device)
    highest = scores.new_zeros(())
    batch = -(-count // STEPS)
    states = [_State(reader) for reader in readers]
    while len(alive := left.nonzero()[:, 0]):
        costs = torch.stack([state.costs(alive) for state in states]).sum(0)
        order = costs.argsort(stable=True)[:batch]
        prices = torch.maximum(costs[order].cummax(0).values, highest)
        gone = alive[order]
        scores[here[gone]], highest = prices, prices[-1]
        left[gone] = False
        if len(gone) == len(alive):
            break
        for state in states:
            state.remove(gone)
        if int(left.sum()) <= SHRINK * len(here):
            kept = left.nonzero()[:, 0]
            here, left = here[kept], left[kept]
            for state in states:
                state.keep(kept)
    return scores


class _State:
    """A reader between removals; its n = C m columns stand in the order of the channels.

    The inverse is now A_0^-1 - F F^T, where F `(n, k)` has a column for each column that has gone, as in a Cholesky
    factorisation: no matrix of size n x n is updated or copied, and only the blocks on its diagonal, `(C, m, m)`, are
    current.
    """

    def __init__(self, reader: Reader) -> None:
        self._width = reader.columns.shape[1]
        self._first = reader.inverse  # A_0^-1, of all columns
        self._at = reader.columns.flatten()  # those that the state holds
        self._factor = self._first.new_empty(len(self._at), len(self._at))  # F; what is unwritten costs no memory
        self._known = 0
        self._blocks = reader.inverse[reader.columns[:, :, None], reader.columns[:, None, :]]
        self._root = reader.root.T[self._at]

    def costs(self, channels: Tensor) -> Tensor:
        """The price of each of these channels now."""
        roots = self._root.reshape(-1, self._width, self._root.shape[1])[channels]
        found: Tensor = 0.5 * (torch.linalg.inv(self._blocks[channels]) * (roots @ roots.mT)).sum((1, 2))
        return found

    def remove(self, channels: Tensor) -> None:
        """Pin their columns at zero; the others adapt."""
        gone = self._columns(channels)
        F = self._factor[: len(self._at), : self._known]
        side = torch.addmm(self._first[self._at[gone]][:, self._at], F[gone], F.T, alpha=-1)  # [A^-1]_{gone, :}
        root = torch.linalg.cholesky(side[:, gone])
        new = torch.linalg.solve_triangular(root, side, upper=False)
        weights = torch.linalg.solve_triangular(root, self._root[gone], upper=False)
        self._root.addmm_(new.T, weights, alpha=-1)  # W (I - E_C K)
        parts = new.T.reshape(-1, self._width, len(new))
        self._blocks -= parts @ parts.mT
        self._factor[: len(self._at), self._known : self._known + len(gone)] = new.T
        self._known += len(gone)

    def keep(self, channels: Tensor) -> None:
        """Forget the columns of other channels, all of which have gone."""
        at = self._columns(channels)
        for i in range(0, len(at), ROWS):  # in place: a row never moves down
            rows = at[i : i + ROWS]
            self._factor[i : i + len(rows), : self._known] = self._factor[rows, : self._known]
        self._at = self._at[at]
        self._blocks, self._root = self._blocks[channels], self._root[at]

    def _columns(self, channels: Tensor) -> Tensor:
        return (channels[:, None] * self._width + torch.arange(self._width, device=channels.device)).flatten()
