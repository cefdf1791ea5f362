"""Exact block form of Theorem 1 in Kronecker-factored weight space, on the consumers' side, jointly within a layer."""

from collections import Counter
from collections.abc import Iterator

from torch import Tensor

from infprune.coupling.groups import ChannelLayer, Role
from infprune.curvature.patches import matrix, rows_read
from infprune.influence.column_elimination import Reader, eliminate_columns
from infprune.influence.kronecker import dampen, invert, root
from infprune.scores.consumers import gate_price
from infprune.scores.contract import Criterion, Need, ScoringInputs


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    r"""Price of each channel in a greedy joint elimination of its layer (see `influence.column_elimination`).

    The first price is s_c = 1/2 tr(G W_C ([A^-1]_CC)^-1 W_C^T), summed over everything that reads channel c; later
    ones count that the cheaper channels have gone and that the weights have adapted. Consumers only: a dead producer
    already silences its consumers, so rows plus columns would count twice. Channels that no module reads (query times
    key) are priced at their gate: 1/2 E z^2, in the same unit, with nothing that could adapt.
    """
    left = Counter(name for layer in inputs.layers if not layer.gated for name in _names(layer))
    kept: dict[str, Tensor] = {}  # inverses of weights that are read again

    def price(layer: ChannelLayer) -> Tensor:
        return gate_price(inputs, layer) if layer.gated else eliminate_columns(_readers(inputs, layer, left, kept))

    return {layer.name: price(layer) for layer in inputs.layers}


def _names(layer: ChannelLayer) -> list[str]:
    return [s.tensor.rpartition(".")[0] for s in layer.having(Role.CONSUMER)]


def _readers(
    inputs: ScoringInputs, layer: ChannelLayer, left: Counter[str], kept: dict[str, Tensor]
) -> Iterator[Reader]:
    for s, name in zip(layer.having(Role.CONSUMER), _names(layer), strict=True):
        factors = inputs.statistics.kronecker[name]
        A = kept.pop(name) if name in kept else invert(dampen(factors.inputs.dense(), inputs.damping))
        left[name] -= 1
        if left[name]:  # by layers that read other columns, which elimination leaves alone
            kept[name] = A
        owner = inputs.module.get_submodule(name)
        columns = rows_read(owner, s.index).to(A.device)
        for a, g, w in zip(A, factors.gradients, matrix(owner).detach(), strict=True):
            yield Reader(a, root(g.to(a), w), columns)


INFLUENCE = Criterion(_score, frozenset({Need.KRONECKER}), separable=True)
