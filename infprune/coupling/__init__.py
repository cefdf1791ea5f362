"""Coupling: which slices live or die together. One rule per operation; what is not here freezes what reaches it."""

from infprune.coupling.computing import conv, embedding, linear
from infprune.coupling.norms import batch_norm, group_norm, layer_norm, softmax
from infprune.coupling.products import attention, einsum, matmul
from infprune.coupling.propagation import Rule
from infprune.coupling.reductions import pool, reduce
from infprune.coupling.sections import chunk, glu, select, slices, split
from infprune.coupling.structural import (
    channel_shuffle,
    constant,
    expand,
    identity,
    index,
    joined,
    pad,
    pixel_shuffle,
    regrouped,
    repeat,
    roll,
    verbatim,
)

RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys([f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)], conv),
    "embedding": embedding,
    **dict.fromkeys(("matmul", "mm", "bmm"), matmul),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), layer_norm),
    "group_norm": group_norm,
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp"), softmax),
    **dict.fromkeys(
        [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)], pool
    ),
    **dict.fromkeys(("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"), pool),
    **dict.fromkeys([f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d")], pool),
    **dict.fromkeys([f"upsample_{kind}" for kind in ("bilinear2d", "bicubic2d", "trilinear3d")], pool),
    **dict.fromkeys([f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)], pool),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "prod", "std", "var", "std_mean", "var_mean"), reduce
    ),
    **dict.fromkeys(("linalg_vector_norm", "norm", "logsumexp", "argmax", "argmin", "all", "any"), reduce),
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias"), identity
    ),
    **dict.fromkeys(("hardswish", "to", "_to_copy", "lift_fresh_copy", "_assert_tensor_metadata"), identity),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"), identity),
    **dict.fromkeys([f"new_{kind}" for kind in ("zeros", "ones", "full", "empty")], constant),
    **dict.fromkeys(("view", "reshape", "unflatten", "_unsafe_view", "view_as", "reshape_as"), regrouped),
    "expand": expand,
    **dict.fromkeys(("flatten", "permute", "transpose", "t", "movedim", "squeeze", "unsqueeze", "getitem"), verbatim),
    **dict.fromkeys(("expand_as", "flip", "numpy_T", "mT", "swapaxes", "pixel_unshuffle"), verbatim),
    **dict.fromkeys(("cat", "stack"), joined),
    "pixel_shuffle": pixel_shuffle,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channel_shuffle),
    "roll": roll,
    "repeat": repeat,
    "index": index,
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    "chunk": chunk,
    "glu": glu,
    **dict.fromkeys(("split", "split_with_sizes"), split),
    **dict.fromkeys(("slice", "narrow"), slices),
    **dict.fromkeys(("select", "unbind"), select),
}
