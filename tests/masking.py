"""Masking done by hooks: a second truth for surgery, which shares no code with `infprune.surgery.silenced`.

The dense weights stay as they are. Every module that reads removed channels gets zeros for them; norms whose statistics
run over channels are computed by hand over those that stay.
"""

import copy

import torch
from torch import nn

from infprune.coupling.groups import Role


def masked(module, coupling, masks):
    """A copy of `module` that hides what `masks` removes, or None where a weight is read by no module's own call."""
    hidden = copy.deepcopy(module).eval()
    owners, narrow = _owners(hidden), {}
    for layer in coupling.layers:
        mask = masks.get(layer.name, torch.ones(1, dtype=torch.bool))
        for s in () if bool(mask.all()) else layer.slices:
            gone = s.index[~mask].reshape(-1)
            if s.tensor in coupling.norms:
                narrow.setdefault(s.tensor, []).append(gone)
            elif hide := _hidden(layer, s):
                if not owners.get(s.tensor):
                    return None
                for owner in owners[s.tensor]:
                    hide(owner, gone)
    for name, gone in narrow.items():
        for owner in owners.get(name, ()):
            owner.forward = _narrowed(owner, torch.cat(gone))
    return hidden


def _hidden(layer, s):
    """Where a slice's channels are hidden: where they are read; if they meet in a product, where they are made."""
    if s.role is Role.CONSUMER:
        return _hide_inputs
    return _hide_outputs if layer.multiplied and s.role is Role.PRODUCER and s.tensor.endswith("weight") else None


def _owners(module):
    """Modules by the first name of their weight."""
    first, found = {}, {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        first.setdefault(id(tensor), name)
    for owner in module.modules():
        if isinstance(getattr(owner, "weight", None), nn.Parameter):
            found.setdefault(first[id(owner.weight)], []).append(owner)
    return found


def _hide_inputs(owner, gone):
    def hide(owner, inputs):
        x = inputs[0].clone()
        if isinstance(owner, nn.Linear):
            x[..., gone] = 0
        elif owner.transposed:
            x[:, gone] = 0
        else:
            x.unflatten(1, (owner.groups, -1))[:, :, gone] = 0
        return (x, *inputs[1:])

    owner.register_forward_pre_hook(hide)


def _hide_outputs(owner, gone):
    def hide(owner, inputs, y):
        y = y.clone()
        if isinstance(owner, nn.Linear):
            y[..., gone] = 0
        else:
            y[:, gone] = 0
        return y

    owner.register_forward_hook(hide)


def _narrowed(owner, gone):
    """y = gamma (x - mean) / sqrt(var + eps) + beta over what stays; a root mean square norm has no mean."""
    stays = torch.ones(len(owner.weight), dtype=torch.bool)
    stays[gone] = False

    def forward(x):
        channels = 1 if isinstance(owner, nn.GroupNorm) else x.dim() - 1
        x = x.movedim(channels, -1)
        kept = x[..., stays]
        dims = tuple(range(1, x.dim())) if isinstance(owner, nn.GroupNorm) else (-1,)
        mean = 0.0 if isinstance(owner, nn.RMSNorm) else kept.mean(dims, keepdim=True)
        eps = torch.finfo(x.dtype).eps if owner.eps is None else owner.eps
        y = torch.zeros_like(x)
        y[..., stays] = (kept - mean) / ((kept - mean).square().mean(dims, keepdim=True) + eps).sqrt()
        y[..., stays] *= owner.weight[stays]
        if getattr(owner, "bias", None) is not None:
            y[..., stays] += owner.bias[stays]
        return y.movedim(-1, channels)

    return forward
