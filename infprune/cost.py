"""What a network costs: parameters, multiply-accumulates, bytes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from infprune.coupling.groups import ChannelLayer, Coupling


@dataclass(frozen=True)
class Cost:
    """`params`: number of parameters. `macs`: multiply-accumulates of convolutions and linear layers per sample.

    `bytes`: size of all parameters and buffers.
    """

    params: int
    macs: int
    bytes: int


def count(coupling: Coupling, kept: Mapping[str, int] | None = None) -> Cost:
    """Cost after keeping `kept[layer]` channels of each named layer (all channels of the others).

    Exact, from shapes alone: a convolution or linear call costs (output positions) x (weight entries) MACs.
    """
    shapes = {name: list(spec.shape) for name, spec in coupling.tensors.items()}
    for layer in coupling.layers:
        gone = layer.size - (kept or {}).get(layer.name, layer.size)
        for s in layer.slices:
            shapes[s.tensor][s.dim] -= gone * s.index.shape[1]
    numel = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    return Cost(
        params=sum(n for name, n in numel.items() if coupling.tensors[name].parameter),
        macs=coupling.fixed_macs + sum(call.positions * numel[call.weight] for call in coupling.computations),
        bytes=sum(n * coupling.tensors[name].itemsize for name, n in numel.items()),
    )


def macs_by_layer(coupling: Coupling) -> dict[str, int]:
    """MACs that would vanish if a layer kept no channel, for each layer. Shared MACs are counted in both layers."""
    return {name: freed.macs for name, freed in freed_by_layer(coupling).items()}


def freed_by_layer(coupling: Coupling) -> dict[str, Cost]:
    """What would vanish if a layer kept no channel, for each layer. What two layers share is counted in both."""
    positions = Counter[str]()
    for call in coupling.computations:
        positions[call.weight] += call.positions

    def freed(layer: ChannelLayer) -> Cost:
        left = {s.tensor: list(coupling.tensors[s.tensor].shape) for s in layer.slices}
        for s in layer.slices:
            left[s.tensor][s.dim] -= s.index.numel()
        lost = {name: coupling.tensors[name].shape.numel() - torch.Size(shape).numel() for name, shape in left.items()}
        return Cost(
            params=sum(n for name, n in lost.items() if coupling.tensors[name].parameter),
            macs=sum(positions[name] * n for name, n in lost.items()),
            bytes=sum(n * coupling.tensors[name].itemsize for name, n in lost.items()),
        )

    return {layer.name: freed(layer) for layer in coupling.layers}
