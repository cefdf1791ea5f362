"""What coupling finds: which slices of which tensors live or die together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Size, Tensor


class Role(StrEnum):
    """How a tensor dimension touches a channel."""

    PRODUCER = "producer"  # output dimension of a convolution, linear or embedding weight (and its bias)
    CONSUMER = "consumer"  # input dimension of a convolution or linear weight
    THROUGH = "through"  # norm, depthwise filter, per-channel parameter: one entry per channel, passed on
    SIZE = "size"  # an integer attribute of a module that its code reads as a width


@dataclass(frozen=True)
class CoupledSlice:
    """Where the channels of a layer stand in one dimension of one tensor.

    `index[c]` are the positions along `dim` that belong to channel `c`: shape `(C, k)`, int64. `k` is 1 for a
    convolution and `H * W` for a linear layer behind a flatten. For `Role.SIZE`, `tensor` is `module@attribute` and
    the attribute's value is the number of positions.
    """

    tensor: str
    dim: int
    role: Role
    index: Tensor


@dataclass(frozen=True)
class ChannelLayer:
    """Channels that touch the same dimensions of the same tensors; each channel is one coupled group.

    `frozen` is the reason why none of them may be removed, or None. `inexact` names the norm whose statistics run over
    these channels, so that removing some changes it for the others. `multiplied`: they are summed over in a product of
    two activations (query times key). `foreign`: weights that read them without their module being called.
    """

    name: str
    slices: tuple[CoupledSlice, ...]
    frozen: str | None = None
    inexact: str | None = None
    multiplied: bool = False
    foreign: frozenset[str] = frozenset()

    @property
    def gated(self) -> bool:
        """Whether something reads the channels that no hook sees, so that they are measured where they are produced."""
        return self.multiplied or bool(self.foreign)

    @property
    def size(self) -> int:
        """Number of channels `C`."""
        return int(self.slices[0].index.shape[0])

    def having(self, role: Role) -> tuple[CoupledSlice, ...]:
        """The slices of one role."""
        return tuple(s for s in self.slices if s.role is role)


@dataclass(frozen=True)
class Computation:
    """One call of a convolution or linear weight, in graph order.

    `positions` is the number of output positions per sample (input positions if `transposed`), so its cost is
    `positions * weight.numel()` MACs. `norm` names the running mean of the batch norm that alone reads the output, if
    that is so. `owned`: the weight belongs to a convolution or linear module and is used by calling it, so hooks on
    the module see it. `summed`: nothing but an addition reads the output, past batch norm and dropout.
    """

    weight: str
    bias: str | None
    positions: int
    groups: int
    norm: str | None = None
    owned: bool = True
    transposed: bool = False
    summed: bool = False

    @property
    def module(self) -> str:
        """Dotted name of the module that owns the weight."""
        return self.weight.rpartition(".")[0]

    @property
    def output_dim(self) -> int:
        """The dimension of the weight that runs over its output channels."""
        return 1 if self.transposed else 0

    @property
    def input_dim(self) -> int:
        """The dimension of the weight that runs over its input channels."""
        return 1 - self.output_dim


@dataclass(frozen=True)
class TensorSpec:
    """Shape, bytes per entry, and whether it is a parameter (else a buffer, or an attribute of no bytes)."""

    shape: Size
    itemsize: int
    parameter: bool


@dataclass(frozen=True)
class Coupling:
    """The whole network: channel layers, weight calls in graph order, and every tensor once (tied ones by one name).

    `norms`: names of the norm weights whose statistics run over the channels. `candidates`: integer attributes
    (`module@attribute`) that equal a width in a shape that their module's code asks for, with the layers concerned;
    `Options.follow` makes them follow the cut. `scaled`: modules whose attention scales with the width of a head, which
    is why only whole heads can be removed there. `fixed_macs`: of weights that the code computes.
    """

    layers: tuple[ChannelLayer, ...]
    computations: tuple[Computation, ...]
    tensors: Mapping[str, TensorSpec]
    norms: frozenset[str] = frozenset()
    candidates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    scaled: frozenset[str] = frozenset()
    fixed_macs: int = 0

    @property
    def prunable(self) -> tuple[ChannelLayer, ...]:
        """Layers whose channels may be removed."""
        return tuple(layer for layer in self.layers if layer.frozen is None)

    def owns_norm(self, call: Computation) -> bool:
        """Whether a batch norm stands behind a weight and reads nothing but this weight's outputs."""
        readers = {c.weight for c in self.computations if c.norm == call.norm}
        norms = {c.norm for c in self.computations if c.weight == call.weight}
        return call.norm is not None and readers == {call.weight} and norms == {call.norm}
