"""Exact block form of Theorem 1 in Kronecker-factored weight space, on the consumers' side, jointly within a layer."""

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from infprune.coupling.groups import ChannelLayer, Role
from infprune.influence.column_elimination import Reader, eliminate_columns
from infprune.influence.kronecker import damped, inverse
from infprune.scores.consumers import columns_read, gate_price
from infprune.scores.contract import Criterion, Need, ScoringInputs


def _score(inputs: ScoringInputs) -> dict[str, Tensor]:
    r"""Price of each channel in a greedy joint elimination of its layer (see `influence.column_elimination`).

    The first price is s_c = 1/2 tr(G W_C ([A^-1]_CC)^-1 W_C^T), summed over everything that reads channel c; later
    ones count that the cheaper channels have gone and that the weights have adapted. Consumers only: a dead producer
    already silences its consumers, so rows plus columns would count twice. Channels that no module reads (query times
    key) are priced at their gate: 1/2 E z^2, in the same unit, with nothing that could adapt.
    """
    cache: dict[str, Tensor] = {}
    return {
        layer.name: gate_price(inputs, layer)
        if layer.gated
        else eliminate_columns(list(_readers(inputs, layer, cache)))
        for layer in inputs.layers
    }


def _readers(inputs: ScoringInputs, layer: ChannelLayer, cache: dict[str, Tensor]) -> Iterator[Reader]:
    for s in layer.having(Role.CONSUMER):
        name = s.tensor.rpartition(".")[0]
        factors = inputs.statistics.kronecker[name]
        if name not in cache:
            cache[name] = inverse(damped(factors.inputs, inputs.damping))
        weights, columns = columns_read(inputs.module.get_submodule(name), s.index, cache[name])
        for a, g, w in zip(cache[name], factors.gradients, weights, strict=True):
            padded = F.pad(w, (0, len(a) - w.shape[1]))  # the bias column carries no channel
            yield Reader(a.clone(), padded.T @ g @ padded, columns)


INFLUENCE = Criterion(_score, frozenset({Need.KRONECKER}), separable=True)
