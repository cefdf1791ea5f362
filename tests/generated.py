"""Random networks: graphs of pieces (`pieces`), each told by plain data.

    module, example = build((Step("conv 1x1"), Step("add", second=1)), seed=0)

`networks()` draws such pairs of steps and seed for hypothesis. Every network takes (N, 3, 6, 6) in float64, has signals
of order one behind every step, and returns logits (N, 3) to which all nodes contribute.
"""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pieces import PAIRS, PIECES, TOKEN_PAIRS, TOKEN_PIECES
from pieces.piece import Site

WIDTHS = (4, 8, 6, 12)
LARGEST = 24 * 144  # entries of a node, per sample
CLASSES = 3

ACTIVATIONS = (  # none of them dies: a dead part hides wrong cuts
    lambda x: x,
    lambda x: F.leaky_relu(x, 0.3),
    torch.sigmoid,  # not zero at zero, like the next
    torch.cos,
    F.elu,
)


@dataclass(frozen=True)
class Step:
    """One piece. `first` and `second` count back from the newest node: 0 is the node before. Others choose from above."""

    kind: str
    first: int = 0
    second: int = 0
    width: int = 0
    activation: int = 0


def networks(kinds=tuple(PIECES), most=6):
    """Steps and a seed for `build`."""
    step = st.builds(
        Step,
        kind=st.sampled_from(kinds),
        first=st.integers(0, 3),
        second=st.integers(0, 3),
        width=st.integers(0, len(WIDTHS) - 1),
        activation=st.integers(0, len(ACTIVATIONS) - 1),
    )
    return st.tuples(st.lists(step, min_size=1, max_size=most).map(tuple), st.integers(0, 999))


def build(steps, seed):
    """The network of a tuple of steps and a batch for it; steps that do not fit where they stand are left out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        example = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        network = Generated(steps, torch.randn(4, 3, 6, 6, dtype=torch.float64)).eval()
    return network, example


class Generated(nn.Module):
    """A graph of pieces. `_reads[i]` are the nodes that piece `i` reads; node 0 is the input."""

    def __init__(self, steps, x):
        super().__init__()
        self.pieces, self._names, self._reads, self._scales, self._acts = nn.ModuleList(), [], [], [], []
        self.heads = nn.ModuleList()
        values = [x]
        self._grow(values, Step("conv"), nn.Conv2d(3, 8, 3, padding=1))
        for step in steps:
            reads = [values[-1 - n % len(values)] for n in (step.first, step.second)]
            site = _site(step, *reads)
            piece = PIECES[step.kind](site)
            if piece is not None:
                self._grow(values, step, piece)
        read = {node for reads in self._reads for node in reads}
        self._leaves = [i for i in range(1, len(values)) if i not in read]
        for i in self._leaves:
            self.heads.append(nn.Linear(_pooled(values[i], i).shape[1], CLASSES).double())

    def _grow(self, values, step, piece):
        """Add a node, unless the piece does not work there or makes something unwieldy."""
        last = len(values) - 1
        reads = [last - n % len(values) for n in (step.first, step.second)][: _arity(step.kind)]
        enliven(piece.double().eval())
        act = ACTIVATIONS[step.activation]
        try:
            with torch.no_grad():
                y = act(piece(*_given(step.kind, [values[i] for i in reads])))
        except (RuntimeError, ValueError, IndexError):  # fewer channels or positions than the piece names
            return
        deviation = float(y.std()) if y.numel() > 1 else 0.0
        if y.dim() not in {3, 4} or y[0].numel() > LARGEST or not deviation > 1e-6:
            return
        scale = 1.0 if 0.3 < deviation < 3 else 1 / deviation
        self.pieces.append(piece)
        self._names.append(step.kind)
        self._reads.append(reads)
        self._acts.append(act)
        self._scales.append(scale)
        values.append(y * scale)

    @property
    def kinds(self):
        """The kinds of the pieces that fitted."""
        return tuple(self._names[1:])

    def forward(self, x):
        values = [x]
        for kind, piece, reads, act, scale in zip(
            self._names, self.pieces, self._reads, self._acts, self._scales, strict=True
        ):
            y = act(piece(*_given(kind, [values[i] for i in reads])))
            values.append(y if scale == 1.0 else y * scale)
        return sum(head(_pooled(values[i], i)) for i, head in zip(self._leaves, self.heads, strict=True))


def enliven(piece):
    """Biases, norms and running statistics away from 0 and 1."""
    for name, parameter in piece.named_parameters():
        if "bias" in name.rpartition(".")[2]:
            nn.init.normal_(parameter, 0.0, 0.3)
    for module in piece.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)


def _arity(kind):
    return 2 if kind in PAIRS or kind in TOKEN_PAIRS else 1


def _given(kind, values):
    """The nodes in the form that the piece reads."""
    if kind in TOKEN_PIECES or kind in TOKEN_PAIRS:
        return [_tokens(v) for v in values]
    maps = [_map(v) for v in values]
    if len(maps) == 2 and maps[0].shape[2:] != maps[1].shape[2:]:
        maps[1] = F.interpolate(maps[1], size=maps[0].shape[2:])
    return maps


def _site(step, first, second):
    values = _given(step.kind, [first, second][: _arity(step.kind)])
    if values[0].dim() == 4:
        (_, c, h, w), other = values[0].shape, values[-1].shape[1]
    else:
        (_, h, c), w, other = values[0].shape, 1, values[-1].shape[2]
    return Site(c, h, w, WIDTHS[step.width % len(WIDTHS)], other)


def _tokens(x):
    return x if x.dim() == 3 else x.flatten(2).transpose(1, 2)


def _map(x):
    """Tokens back on their square, or in one column."""
    if x.dim() == 4:
        return x
    side = round(x.shape[1] ** 0.5)
    x = x.transpose(1, 2)
    return x.unflatten(2, (side, side)) if side * side == x.shape[2] else x.unsqueeze(3)


def _pooled(x, i):
    """One row per sample, in one of three ways."""
    if i % 3 == 0:
        return x.flatten(1)
    if i % 3 == 1:
        return _map(x).mean((2, 3))
    return _map(x).amax((2, 3))
