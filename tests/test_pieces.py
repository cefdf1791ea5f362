"""Each piece of the generated networks between two layers: cut and proved, and frozen only where the table says so."""

import pytest

from generated import Step, build
from infprune.trial import settle
from labelled import OUTPUT
from pieces import PAIRS, PIECES, TOKEN_PAIRS
from test_random_networks import check

pytestmark = [
    pytest.mark.slow,
    # Warned by torch in the cut network: an instance norm without tensors keeps its `num_features`.
    pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features"),
]

FROZEN = {  # the reason of a layer around the piece; what is not here leaves every channel prunable
    "transposed depthwise of two": "its channels are tied together: all would go at once",
    "tied linears": "is also read element by element",
    "blur by one kernel": "a weight that the code computes in conv2d",
    "standardised weight": "a weight that the code computes in conv2d",
    "weight norm": "a weight that the code computes in conv2d",
    "unfold": "no rule for im2col",
    "group norm, bare": "no weights that follow the channels in group_norm",
    "layer norm, functional": "normalised over channels without weights of their own in layer_norm",
    "layer norm of everything": "normalised over channels without weights of their own in layer_norm",
    "local response norm": "avg_pool3d",
    "unit length": "reduced over channels in linalg_vector_norm",
    "rms norm by hand": "reduced over channels in mean.dim",
    "gate of positions": "broadcast over channels in mul.Tensor",
    "gate of the mean": "reduced over channels in mean.dim",
    "gate of the maximum": "reduced over channels in amax",
    "gate over neighbours": "its channels are tied together: all would go at once",
    "leaky by channel": "no rule for prelu",
    "leaky": "no rule for prelu",
    "chunk in three": "unequal parts in chunk",
    "split, constant": "fixed channel positions in split_with_sizes",
    "split, by attribute": "nothing reads it",
    "tensor_split": "no rule for tensor_split.sections",
    "leading channels": "fixed channel positions in slice.Tensor",
    "trailing channels": "fixed channel positions in slice.Tensor",
    "last channels": "fixed channel positions in slice.Tensor",
    "other channels": "fixed channel positions in slice.Tensor",
    "first as a gate": "fixed channel positions in slice.Tensor",
    "narrow": "fixed channel positions in narrow",
    "picked channels": "fixed channel positions in index.Tensor",
    "index_select": "no rule for index_select",
    "one channel": "fixed channel positions in select.int",
    "unbind": "fixed channel positions in unbind.int",
    "complex": "fixed channel positions in slice.Tensor",
    "roll channels": "fixed channel positions in roll",
    "shuffle, pairs": "the cut network fails: ",
    "repeat": "repeated over channels in repeat",
    "repeat, interleaved": "no rule for repeat_interleave.self_int",
    "registers": "mixes channels and positions",
    "literal": "the cut network fails: ",
    "packed attention, shapes": "the cut network fails: ",
    "packed attention, as wide as the input": "the cut network fails: ",
    "batch as channels": "its channels are tied together: all would go at once",
    "crop channels": "nothing reads it",
    "sorted over space": "no rule for sort",
    "softmax over channels": "depends on all channels in softmax.int",
    "mean over channels": "reduced over channels in mean.dim",
    "maximum over channels": "reduced over channels in amax",
    "cumulated over channels": "depends on all channels in cumsum",
    "sorted over channels": "no rule for sort",
    "largest channels": "no rule for topk",
    "centred over channels": "reduced over channels in mean.dim",
    "difference of neighbours": "fixed channel positions in slice.Tensor",
    "bilinear pooling": "an outer product of channels in bmm",
    "similarity of channels": "an outer product of channels in bmm",
    "mixture": "depends on all channels in softmax.int",
    "layer norm without affine": "normalised over channels without weights of their own in layer_norm",
    "rms norm in steps": "reduced over channels in mean.dim",
    "positions of a longer table": "fixed channel positions in slice.Tensor",
    "softmax of tokens": "depends on all channels in softmax.int",
    "mixer": "its channels are tied together: all would go at once",
    "mixer to other tokens": "its channels are tied together: all would go at once",
    "linear per head": "its channels are tied together: all would go at once",
    "lookup": "depends on all channels in softmax.int",
    "attention, scaled by attribute": "the cut network fails: ",
    "attention, scaled by shape": "the cut network fails: ",
    "fused attention": "scaled by 1/sqrt(width) in scaled_dot_product_attention",
    "packed attention, heads first": "the cut network fails: ",
    "single head, scaled by shape": "the cut network fails: ",
    "linear attention": "summed with values that have no such channels in matmul",
    "efficient attention": "depends on all channels in softmax.int",
    "attention over channels": "an outer product of channels in matmul",
    "repeated keys": "summed with values that have no such channels in matmul",
    "cosine attention": "reduced over channels in linalg_vector_norm",
    "talking heads": "an outer product of channels in matmul",
    "multihead": "the cut network fails: ",
    "multihead, time first": "the cut network fails: ",
    "multihead, no bias": "the cut network fails: ",
    "multihead, added keys": "the cut network fails: ",
    "encoder layer": "is used outside a module of its own, and so is what reads it",
    "encoder layer, norm first": "is used outside a module of its own, and so is what reads it",
    "gate of one channel": "broadcast over channels in mul.Tensor",
    "add, padded": "added to a constant, a padding or an input in add.Tensor",
    "add, sliced": "fixed channel positions in slice.Tensor",
    "add, repeated": "repeated over channels in repeat",
    "cosine": "no rule for cosine_similarity",
    "add of a mean": "reduced over channels in mean.dim",
    "multihead of two": "a weight that the code computes in linear",
    "outer product": "an outer product of channels in einsum",
}


def alone(kind):
    """A network of this piece, with a node of the right width for those that read two."""
    if kind in {"add, padded", "add, sliced", "add, repeated"}:
        return (Step("conv 1x1", width=0), Step(kind, first=1))
    if kind in PAIRS or kind in TOKEN_PAIRS:
        return (Step("conv 1x1", width=1), Step(kind, second=1))
    return (Step(kind, width=1),)


@pytest.mark.parametrize("kind", PIECES)
def test_a_piece_alone(kind):
    module, example = build(alone(kind), seed=0)
    assert module.kinds[-1] == kind
    reasons = [layer.frozen for layer in settle(module, example).layers if layer.frozen not in {None, OUTPUT}]
    if kind in FROZEN:
        assert any(FROZEN[kind] in reason for reason in reasons), reasons
    else:
        assert reasons == []


@pytest.mark.parametrize("kind", PIECES)
def test_a_piece_alone_is_cut_in_any_way(kind):
    for seed in (0, 3):
        check(alone(kind), seed)
