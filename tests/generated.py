"""Random networks: graphs of pieces (`pieces`), each told by plain data.

    module, example = build((Step("conv 1x1"), Step("add", second=1)), seed=0)

`networks()` draws such pairs of steps and seed for hypothesis. Every network takes (N, 3, 6, 6) in float64, has signals
of order one behind every step, and returns logits (N, 3) to which all nodes contribute.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

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


HEADS = (  # how a leaf is read: by one row per sample
    lambda x: x.flatten(1),
    lambda x: _map(x).mean((2, 3)),
    lambda x: _map(x).amax((2, 3)),
)


@dataclass(frozen=True)
class Step:
    """One piece. `first` and `second` count back from the newest node: 0 is the node before.

    `width` and `activation` choose from the lists above, `head` says how the node is read if no other node reads it.
    """

    kind: str
    first: int = 0
    second: int = 0
    width: int = 0
    activation: int = 0
    head: int = 0


def networks(kinds=tuple(PIECES), most=6):
    """Steps and a seed for `build`."""
    step = st.builds(
        Step,
        kind=st.sampled_from(kinds),
        first=st.integers(0, 3),
        second=st.integers(0, 3),
        width=st.integers(0, len(WIDTHS) - 1),
        activation=st.integers(0, len(ACTIVATIONS) - 1),
        head=st.integers(0, len(HEADS) - 1),
    )
    return st.tuples(st.lists(step, min_size=1, max_size=most).map(tuple), st.integers(0, 999))


def build(steps, seed):
    """The network of a tuple of steps and a batch for it; steps that do not fit where they stand are left out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        example = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        network = Generated(steps, torch.randn(4, 3, 6, 6, dtype=torch.float64)).eval()
    return network, example


@dataclass(frozen=True)
class Node:
    """What the forward pass does with one piece: `reads` are positions among the nodes, of which 0 is the input.

    `shift` and `scale` keep its values of order one.
    """

    kind: str
    reads: tuple[int, ...]
    activation: Callable[[Tensor], Tensor]
    shift: float
    scale: float
    pooled: Callable[[Tensor], Tensor]


class Generated(nn.Module):
    """A graph of pieces. What no node reads, the output does."""

    def __init__(self, steps, x):
        super().__init__()
        self.pieces, self.heads, self._nodes = nn.ModuleList(), nn.ModuleList(), []
        values = [x]
        self._grow(values, Step("conv"), nn.Conv2d(3, 8, 3, padding=1))
        for step in steps:
            piece = PIECES[step.kind](_site(step, [values[i] for i in _reads(step, len(values))]))
            if piece is not None:
                self._grow(values, step, piece)
        read = {i for node in self._nodes for i in node.reads}
        self._leaves = [i for i in range(1, len(values)) if i not in read]
        for i in self._leaves:
            self.heads.append(nn.Linear(self._nodes[i - 1].pooled(values[i]).shape[1], CLASSES).double())

    def _grow(self, values, step, piece):
        """Add a node, unless the piece does not work there or makes something unwieldy."""
        enliven(piece.double().eval())
        node = Node(step.kind, _reads(step, len(values)), ACTIVATIONS[step.activation], 0.0, 1.0, HEADS[step.head])
        try:
            with torch.no_grad():
                y = _value(node, piece, values)
        except (RuntimeError, ValueError, IndexError):  # fewer channels or positions than the piece names
            return
        mean, deviation = float(y.mean()), float(y.std()) if y.numel() > 1 else 0.0
        if y.dim() in {3, 4} and y[0].numel() <= LARGEST and deviation > 1e-4 * max(1.0, abs(mean)):
            if not 0.3 < deviation < 3 or abs(mean) > 3:
                node = replace(node, shift=mean, scale=1 / deviation)
            self.pieces.append(piece)
            self._nodes.append(node)
            values.append((y - node.shift) * node.scale)

    @property
    def kinds(self):
        """The kinds of the pieces that fitted."""
        return tuple(node.kind for node in self._nodes[1:])

    def forward(self, x):
        values = [x]
        for node, piece in zip(self._nodes, self.pieces, strict=True):
            values.append(_value(node, piece, values))
        read = zip(self._leaves, self.heads, strict=True)
        return sum(head(self._nodes[i - 1].pooled(values[i])) for i, head in read)


def _value(node, piece, values):
    y = node.activation(piece(*_given(node.kind, [values[i] for i in node.reads])))
    return y if node.scale == 1.0 else (y - node.shift) * node.scale


def _reads(step, count):
    """The nodes that a step reads, of `count` that are there."""
    back = (step.first, step.second) if step.kind in PAIRS or step.kind in TOKEN_PAIRS else (step.first,)
    return tuple(count - 1 - n % count for n in back)


def enliven(piece):
    """Weights that keep the signal's size and make attention choose; biases, norms and statistics away from 0 and 1."""
    for name, parameter in piece.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
        elif "bias" in name.rpartition(".")[2]:
            nn.init.normal_(parameter, 0.0, 0.3)
    for module in piece.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)


def _given(kind, values):
    """The nodes in the form that the piece reads."""
    if kind in TOKEN_PIECES or kind in TOKEN_PAIRS:
        return [_tokens(v) for v in values]
    maps = [_map(v) for v in values]
    if len(maps) == 2 and maps[0].shape[2:] != maps[1].shape[2:]:
        maps[1] = F.interpolate(maps[1], size=maps[0].shape[2:])
    return maps


def _site(step, values):
    values = _given(step.kind, values)
    if values[0].dim() == 4:
        (_, c, h, w), other = values[0].shape, values[-1].shape[1]
    else:
        (_, h, c), w, other = values[0].shape, 1, values[-1].shape[2]
    return Site(c, h, w, WIDTHS[step.width], other)


def _tokens(x):
    return x if x.dim() == 3 else x.flatten(2).transpose(1, 2)


def _map(x):
    """Tokens back on their square, or in one column."""
    if x.dim() == 4:
        return x
    side = round(x.shape[1] ** 0.5)
    x = x.transpose(1, 2)
    return x.unflatten(2, (side, side)) if side * side == x.shape[2] else x.unsqueeze(3)
