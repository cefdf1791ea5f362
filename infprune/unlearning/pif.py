"""Influence function of all parameters, applied to some."""

from infprune.unlearning.contract import Linearised, Shift


def pif(near: Linearised) -> Shift:
    r"""x_T = (H^-1 g)_T: the entries T of the whole Newton step; what the others would have done is left undone."""
    found = near.solving.square(near.H, near.g)
    return Shift.of(near.spread(found.value[near.positions.to(found.value.device)]), found)
