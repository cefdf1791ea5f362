"""Coupling: which slices live or die together. One rule per operation; what is not here freezes what reaches it."""

from infprune.coupling.computing import batch_norm, conv, linear, pool, reduce_positions
from infprune.coupling.propagation import Rule
from infprune.coupling.structural import chunk, cut_at_constants, identity, pad, regrouped, verbatim

RULES: dict[str, Rule] = {
    "linear": linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv),
    "batch_norm": batch_norm,
    **dict.fromkeys(
        [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)], pool
    ),
    **dict.fromkeys([f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "bilinear2d", "bicubic2d")], pool),
    **dict.fromkeys(("mean", "sum"), reduce_positions),
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias"), identity
    ),
    **dict.fromkeys(("hardswish", "to", "_to_copy", "lift_fresh_copy", "_assert_tensor_metadata"), identity),
    **dict.fromkeys(("view", "reshape", "unflatten", "_unsafe_view"), regrouped),
    **dict.fromkeys(("flatten", "permute", "transpose", "t", "movedim", "squeeze", "unsqueeze", "getitem"), verbatim),
    **dict.fromkeys(("cat", "stack", "expand", "expand_as", "flip"), verbatim),
    "chunk": chunk,
    **dict.fromkeys(("slice", "select", "narrow", "split", "split_with_sizes"), cut_at_constants),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
}
