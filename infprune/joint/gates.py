"""False pruning: channels multiplied by a gate where they are read, at full size."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from infprune.coupling.groups import ChannelLayer, Role
from infprune.forward import Inputs, picked, tensors


@dataclass(frozen=True)
class _Use:
    """Where a layer's gates enter a tensor: along `dim` at `index` `(C, k)`; `whole`: that is each position once."""

    layer: str
    dim: int
    index: Tensor
    whole: bool


class Gates:
    """Multiplies the weights that read a channel by its gate, which is what multiplying the channel would do.

    With gates of 0 and 1 the network equals `infprune.surgery.silenced`, and so the smaller one. Channels that are
    summed over in a product have their gates where they are made, as there.
    """

    def __init__(self, module: nn.Module, layers: Sequence[ChannelLayer]) -> None:
        named = _named(module)
        self._uses: dict[str, list[_Use]] = {}
        for layer in layers:
            for s in layer.slices:
                if s.role is Role.SIZE:
                    continue
                tensor = named[s.tensor]
                if s.role is Role.CONSUMER or (layer.multiplied and isinstance(tensor, nn.Parameter)):
                    whole = torch.equal(s.index.flatten(), torch.arange(tensor.shape[s.dim]))
                    use = _Use(layer.name, s.dim, s.index.to(tensor.device), whole)
                    self._uses.setdefault(s.tensor, []).append(use)

    def tensors(self, module: nn.Module, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gated tensors by name, differentiable in tensors and gates; layers without a gate stay as they are."""
        named, changed = _named(module), dict[str, Tensor]()
        for name, uses in self._uses.items():
            for use in uses:
                if use.layer in gates:
                    t = changed.get(name, named[name])
                    changed[name] = t * _factor(t, use, gates[use.layer])
        return changed

    def logits(self, module: nn.Module, x: Inputs, gates: Mapping[str, Tensor]) -> Tensor:
        """Run the gated network."""
        found: Tensor = picked(functional_call(module, self.tensors(module, gates), tensors(x)))
        return found

    @torch.no_grad()
    def applied(self, module: nn.Module, gates: Mapping[str, Tensor]) -> nn.Module:
        """Copy the network with its gates worked into its weights."""
        gated = copy.deepcopy(module)
        named = _named(gated)
        for name, t in self.tensors(module, gates).items():
            named[name].copy_(t)
        return gated


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _factor(t: Tensor, use: _Use, gate: Tensor) -> Tensor:
    """The gates along a dimension of `t`, shaped to multiply it; one where other channels stand."""
    each = gate.to(t.dtype).repeat_interleave(use.index.shape[1])
    line = each if use.whole else each.new_ones(t.shape[use.dim]).index_copy(0, use.index.flatten(), each)
    return line.view([-1 if d == use.dim else 1 for d in range(t.dim())])
