"""The classic influence function, which changes every parameter."""

from infprune.unlearning.contract import Linearised, Shift


def classic(near: Linearised) -> Shift:
    r"""X = H^-1 g (Koh and Liang 2017): all parameters, whatever was selected."""
    found = near.solving.square(near.H, near.g)
    return Shift.of(found.value.to(near.g), found)
