"""Exact block form of Theorem 1 in Kronecker-factored weight space, on the consumers' side, jointly within a layer."""

from collections import Counter
from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from infprune.coupling.groups import ChannelLayer, Role
from infprune.curvature.kronecker import wide
from infprune.influence.column_elimination import Reader, eliminate_columns
from infprune.influence.kronecker import damped, invert, root
from infprune.scores.consumers import columns_read, gate_price
from infprune.scores.contract import Criterion, Need, ScoringInputs


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    r"""Price of each channel in a greedy joint elimination of its layer (see `influence.column_elimination`).

    The first price is s_c = 1/2 tr(G W_C ([A^-1]_CC)^-1 W_C^T), summed over everything that reads channel c; later
    ones count that the cheaper channels have gone and that the weights have adapted. Consumers only: a dead producer
    already silences its consumers, so rows plus columns would count twice. Channels that no module reads (query times
    key) are priced at their gate: 1/2 E z^2, in the same unit, with nothing that could adapt.
    """
    left = Counter(name for layer in inputs.layers if not layer.gated for name in _names(layer))
    inverses: dict[str, Tensor] = {}  # of weights that later layers read as well

    def price(layer: ChannelLayer) -> Tensor:
        if layer.gated:
            return gate_price(inputs, layer)
        found = eliminate_columns(list(_readers(inputs, layer, inverses)))
        left.subtract(_names(layer))
        for name in [name for name in inverses if not left[name]]:
            del inverses[name]
        return found

    return {layer.name: price(layer) for layer in inputs.layers}


def _names(layer: ChannelLayer) -> list[str]:
    return [s.tensor.rpartition(".")[0] for s in layer.having(Role.CONSUMER)]


def _readers(inputs: ScoringInputs, layer: ChannelLayer, inverses: dict[str, Tensor]) -> Iterator[Reader]:
    for s, name in zip(layer.having(Role.CONSUMER), _names(layer), strict=True):
        factors = inputs.statistics.kronecker[name]
        if name not in inverses:
            inverses[name] = invert(damped(factors.inputs, inputs.damping, wide(factors.inputs.device)))
        A = inverses[name]
        weights, columns = columns_read(inputs.module.get_submodule(name), s.index, A)
        for a, g, w in zip(A, factors.gradients.to(A), weights, strict=True):
            padded = F.pad(w, (0, len(a) - w.shape[1]))  # the bias column carries no channel
            yield Reader(a, root(g, padded), columns)


INFLUENCE = Criterion(_score, frozenset({Need.KRONECKER}), separable=True)
