"""Second-order influence of a group of samples."""

from dataclasses import replace

import torch

from infprune.unlearning.contract import Linearised, Shift


def second_order(near: Linearised) -> Shift:
    r"""X = x_1 + p H^-1 K x_1, x_1 = H^-1 g: all parameters; the group's own curvature is taken out of H.

    The minimum of R - p q is, by one Newton step, (H - p K)^-1 p g; this is its series in p to the second order. It
    equals the second-order group influence of Basu et al. (2020, equation 7), p (1 - 2p) / (1 - p)^2 H^-1 g +
    p^2 / (1 - p)^2 H^-1 K H^-1 g, up to p^3, which differs because they weight the rest up. Where |p H^-1 K| is above
    one the series has no limit; the message says so if the second term is longer than the first.
    """
    assert near.K is not None
    first = near.solving.square(near.H, near.g)
    x = first.value.to(near.g)
    second = near.solving.square(near.H, near.K.matvec(x))
    more = near.share * second.value.to(x)
    worst = max((first, second), key=lambda s: s.residual)
    if (times := float(more.norm() / x.norm().clamp_min(torch.finfo(x.dtype).tiny))) > 1:
        told = f"the second-order term is {times:.3g} times the first, so the series does not converge; use if"
        worst = replace(worst, message=told)
    return Shift.of(x + more, worst)
