"""Influence function with the other parameters fixed."""

from infprune.unlearning.contract import Linearised, Shift


def fif(near: Linearised) -> Shift:
    r"""x_T = H_TT^-1 g_T: the Newton step of the entries T, all others held; the minimum of the quadratic in T."""
    found = near.solving.square(near.block, near.g[near.positions.to(near.g.device)])
    return Shift.of(near.spread(found.value), found)
