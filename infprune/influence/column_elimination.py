"""Theorem 1 on H = G (x) A, one channel after the other: what each removal costs once the cheaper ones are gone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 64  # at most so many rounds per layer: wider ones remove several channels a round


@dataclass(frozen=True)
class Reader:
    """One weight that reads the channels: `inverse` = (A + damping I)^-1 `(D, D)`, `root` R `(r, D')`, R^T R = W^T G W.

    `columns` are the columns of each channel, `(C, m)`, of the D' that carry one; the others stay and adapt.
    Elimination overwrites the root, and the block of these columns in the inverse.
    """

    inverse: Tensor
    root: Tensor
    columns: Tensor


def eliminate_columns(readers: Iterable[Reader]) -> Tensor:
    r"""Remove channels greedily, cheapest first, all remaining weights of every reader adapting after each removal.

    With the channels R already gone, the inverse curvature is that of the remaining columns and the weight is
    the adapted one (MU Theorem 1, exact block): removing C = C_p turns

    .. math:: A^{-1} \to A^{-1} - [A^{-1}]_{:C} K, \quad W \to W (I - E_C K), \quad
              K = ([A^{-1}]_{CC})^{-1} [A^{-1}]_{C:}

    The price of p is 1/2 tr(([A^{-1}]_CC)^{-1} [W^T G W]_CC) at that moment, summed over the readers.
    A channel that duplicates another is free until its twin has gone; prices of single removals, by contrast, miss
    that all copies cannot go.

    Args:
        readers: the weights that read the channels, at least one; used up.

    Returns:
        `(C,)`: the price paid for each channel, as a running maximum along the order of removal: non-decreasing, so
        any threshold removes a prefix of the order. Unit of the loss.
    """
    states = [_State(reader) for reader in readers]
    count, device = states[0].channels, states[0].device
    scores = torch.zeros(count, dtype=states[0].dtype, device=device)
    at = torch.arange(count, device=device)  # the channel at each place; those that have gone stand first
    highest = scores.new_zeros(())
    for start in range(0, count, batch := -(-count // STEPS)):
        costs = torch.stack([state.costs(start) for state in states]).sum(0)
        named = at[start:].argsort()  # of equal costs, the first channel's
        places = named[costs[named].argsort(stable=True)[:batch]]
        prices = torch.maximum(costs[places].cummax(0).values, highest)
        scores[at[start + places]], highest = prices, prices[-1]
        stop = start + len(places)
        if stop == count:
            break
        for a, b in _exchanges((start + places).tolist(), start, stop):
            at[[a, b]] = at[[b, a]]
            for state in states:
                state.exchange(a, b, start)
        for state in states:
            state.remove(start, stop)
    return scores


def _exchanges(places: list[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Pairs that change places, so that what stands at `places` comes to stand from `start` to `stop`."""
    free = (i for i in range(start, stop) if i not in places)
    return zip(free, (i for i in places if i >= stop), strict=True)


class _State:
    """A reader between removals: a pivoted Cholesky factorisation of its inverse, in place.

    Its n = C m columns stand in the order of `eliminate_columns`, k of them have gone. The inverse is now
    A_0^-1 - F F^T, where F `(n, k)` has a column for each column that has gone. Rows and columns of A_0^-1 are read
    for the last time when they go: F^T stands in the rows of the gone. Of the present inverse only the blocks on the
    diagonal exist, `(C, m, m)`.
    """

    def __init__(self, reader: Reader) -> None:
        self.channels, self._width = reader.columns.shape
        self.dtype, self.device = reader.inverse.dtype, reader.inverse.device
        at = reader.columns.flatten()
        first, size = int(at[0]), len(at)
        if torch.equal(at, torch.arange(first, first + size, device=at.device)):
            own = slice(first, first + size)
            self._matrix, self._root = reader.inverse[own, own], reader.root.T[own].contiguous()
        else:
            self._matrix, self._root = reader.inverse[at][:, at], reader.root.T[at]
        self._grid = self._matrix.view(self.channels, self._width, self.channels, self._width)
        self._roots = self._root.view(self.channels, self._width, -1)
        self._blocks = self._grid.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()

    def costs(self, start: int) -> Tensor:
        """The price of each channel from this place on, now."""
        roots = self._roots[start:]
        found: Tensor = 0.5 * (torch.linalg.inv(self._blocks[start:]) * (roots @ roots.mT)).sum((1, 2))
        return found

    def exchange(self, a: int, b: int, start: int) -> None:
        """Let two channels change places, which are `start` or behind it."""
        for held in (self._blocks, self._roots, self._grid[:, :, start:], self._grid.transpose(0, 2)):
            kept = held[a].clone()
            held[a] = held[b]
            held[b] = kept

    def remove(self, start: int, stop: int) -> None:
        """Pin the columns of the channels that stand here at zero; those behind them adapt."""
        k, e = start * self._width, stop * self._width
        M = self._matrix
        side = M[k:e, k:]
        side.addmm_(M[:k, k:e].T, M[:k, k:], alpha=-1)  # [A^-1]_{gone, :}
        root = torch.linalg.cholesky(side[:, : e - k])
        new = torch.linalg.solve_triangular(root, side[:, e - k :], upper=False)
        weights = torch.linalg.solve_triangular(root, self._root[k:e], upper=False)
        self._root[e:].addmm_(new.T, weights, alpha=-1)  # W (I - E_C K)
        parts = new.T.reshape(-1, self._width, e - k)
        self._blocks[stop:] -= parts @ parts.mT
        M[k:e, e:] = new
