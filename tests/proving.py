"""Cut a small network in several ways and hold every cut against two truths, in float64."""

import torch

from infprune.coupling.couple import couple
from infprune.coupling.propagation import EVERYWHERE, Options
from infprune.proof import difference
from infprune.surgery import cut, silenced
from labelled import OUTPUT
from masking import masked

EXACT = 1e-9
HEADS = Options(heads=frozenset({EVERYWHERE}))


def cuts(coupling):
    """Masks of all prunable layers: every second channel goes, all but the first, all but the last."""
    for stays in (lambda i, c: i % 2 == 1 if c > 1 else i >= 0, lambda i, _: i == 0, lambda i, c: i == c - 1):
        yield {layer.name: stays(torch.arange(layer.size), layer.size) for layer in coupling.prunable}


def batch(*shape):
    """Three samples in float64; one shape, or one per input."""
    several = isinstance(shape[0], tuple)
    made = tuple(torch.randn(3, *s, dtype=torch.float64) for s in (shape if several else (shape,)))
    return made if several else made[0]


def proved(net, *shape, coupling=None, options=None):
    """Couple a network (unless that was done), cut it, and prove each cut. Returns the coupling.

    The cuts show in the outputs, equal the silenced network, and also the one that hooks silence, where one can.
    """
    net, x = net.double().eval(), batch(*shape)
    coupling = coupling or couple(net, x, options=options)
    assert coupling.prunable
    seen = 0.0
    for masks in cuts(coupling):
        small = cut(net, coupling, masks)
        truths = [silenced(net, coupling, masks)]
        if _by_modules(coupling):
            truths += [hidden for hidden in (masked(net, coupling, masks),) if hidden is not None]
        for truth in truths:
            error, reason = difference(truth, small, [x])
            assert error <= EXACT, (error, reason)
        seen = max(seen, difference(net, small, [x])[0])
    assert seen > 1e-3
    return coupling


def _by_modules(coupling):
    """Whether all weights and norms are used by calling a module, which hooks see."""
    gated = any(layer.gated and not layer.multiplied for layer in coupling.prunable)
    return not gated and all("." in name for name in coupling.norms)


def facts(coupling):
    """Layers by name, those frozen as outputs left out: None or why they are frozen, up to the line of code."""
    reasons = {layer.name: layer.frozen for layer in coupling.layers if layer.frozen != OUTPUT}
    return {name: None if reason is None else reason.partition(" at ")[0] for name, reason in reasons.items()}
