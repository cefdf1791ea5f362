"""Generalized influence function."""

from infprune.unlearning.contract import Linearised, Shift


def gif(near: Linearised) -> Shift:
    r"""x_T = argmin_x |H_{:,T} x - g|^2 = (H_{:,T}^T H_{:,T})^-1 H_{:,T}^T g (arXiv 2312.05586).

    All rows of H stay, those of the fixed parameters too: a move of T that would leave a gradient in them costs. That
    is how their effect is nullified. Of all steps within T it leaves the smallest gradient |H x - g| of the quadratic,
    where FIF leaves the smallest loss.
    """
    found = near.solving.least_squares(near.columns, near.g)
    return Shift.of(near.spread(found.value), found)
