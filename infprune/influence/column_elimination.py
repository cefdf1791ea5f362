"""Theorem 1 on H = G (x) A, one channel after the other: what each removal costs once the cheaper ones are gone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.influence.kronecker import block_costs

STEPS = 64  # at most so many rounds per layer: wider ones remove several channels a round
SHRINK = 0.7  # compact the matrices when so much of their columns is left


@dataclass
class Reader:
    """One weight that reads the channels: `inverse` = (A + damping I)^-1 and `energy` = W^T G W, both `(D, D)`.

    `columns` are the columns of each channel, `(C, m)`. Both matrices are consumed.
    """

    inverse: Tensor
    energy: Tensor
    columns: Tensor


def eliminate_columns(readers: Sequence[Reader]) -> Tensor:
    r"""Remove channels greedily, cheapest first, all remaining weights of every reader adapting after each removal.

    With the channels R already gone, the inverse curvature is that of the remaining columns and the weight is
    the adapted one (MU Theorem 1, exact block): removing C = C_p turns

    .. math:: A^{-1} \to A^{-1} - [A^{-1}]_{:C} K, \quad W \to W (I - E_C K), \quad
              K = ([A^{-1}]_{CC})^{-1} [A^{-1}]_{C:}

    and W^T G W follows by a rank-2m update. The price of p is `block_costs` at that moment, summed over the readers.
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
    alive = torch.arange(count, device=scores.device)
    highest = scores.new_zeros(())
    batch = -(-count // STEPS)
    while len(alive):
        costs = torch.stack([block_costs(r.inverse, r.energy, r.columns[alive]) for r in readers]).sum(0)
        order = costs.argsort(stable=True)[:batch]
        prices = torch.maximum(costs[order].cummax(0).values, highest)
        scores[alive[order]], highest = prices, prices[-1]
        for reader in readers:
            _remove(reader, reader.columns[alive[order]].flatten())
        stays = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        stays[order] = False
        alive = alive[stays]
        for reader in readers:
            _shrink(reader, alive)
    return scores


def _remove(reader: Reader, gone: Tensor) -> None:
    """Pin the columns `gone` at zero; the others adapt."""
    inverse, energy = reader.inverse, reader.energy
    side = inverse[:, gone]
    gain = torch.linalg.solve(side[gone], side.T)  # K, (m, D)
    half = energy[:, gone] - 0.5 * gain.T @ energy[gone][:, gone]
    inverse.addmm_(side, gain, alpha=-1)
    energy.addmm_(torch.cat([half, gain.T], 1), torch.cat([gain, half.T]), alpha=-1)


def _shrink(reader: Reader, alive: Tensor) -> None:
    """Drop the rows and columns of removed channels once they are many."""
    size, width = len(reader.inverse), reader.columns.shape[1]
    channels = reader.columns.shape[0]
    others = torch.ones(size, dtype=torch.bool, device=alive.device)
    present = reader.columns[reader.columns[:, 0] >= 0].flatten()
    others[present] = False
    keep = torch.cat([reader.columns[alive].flatten(), others.nonzero()[:, 0]])
    if len(keep) > SHRINK * size:
        return
    reader.inverse = reader.inverse[keep][:, keep].contiguous()
    reader.energy = reader.energy[keep][:, keep].contiguous()
    moved = torch.full((channels, width), -1, device=alive.device)
    moved[alive] = torch.arange(len(alive) * width, device=alive.device).reshape(-1, width)
    reader.columns = moved
