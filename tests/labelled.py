"""Small networks written in one line, and their channel layers in a form that is easy to compare."""

import torch
from torch import nn

from infprune.coupling.couple import couple
from infprune.coupling.groups import Role

PRODUCER, CONSUMER, THROUGH = Role.PRODUCER, Role.CONSUMER, Role.THROUGH
OUTPUT = "it is an output of the network"


class Net(nn.Module):
    """Submodules and tensors by name, and `code(self, x)` as the forward pass."""

    def __init__(self, code, **parts):
        super().__init__()
        self.code = code
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.code(self, x)


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def pooled(x):
    return x.mean((2, 3))


def layers(module, *shape):
    """Channel layers by name, for images (3, 4, 4) unless a shape is given."""
    return {layer.name: layer for layer in couple(module.eval(), torch.randn(2, *(shape or (3, 4, 4)))).layers}


def frozen(module, *shape):
    """Reasons by layer name, without the output layer."""
    reasons = {name: layer.frozen for name, layer in layers(module, *shape).items()}
    assert [name for name, reason in reasons.items() if reason == OUTPUT]
    return {name: reason for name, reason in reasons.items() if reason != OUTPUT}


def slices(layer):
    """{(tensor, dimension): (role, index)}, an index of one position per channel as a flat list."""
    assert all(len(s.index) == layer.size and s.index.dtype == torch.int64 for s in layer.slices)
    found = {
        (s.tensor, s.dim): (s.role, s.index[:, 0].tolist() if s.index.shape[1] == 1 else s.index.tolist())
        for s in layer.slices
    }
    assert len(found) == len(layer.slices)
    return found
