"""What a network costs: parameters, multiply-accumulates, bytes."""

import math
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

    def of(self, kind: str) -> int:
        """The field of that name."""
        return int(getattr(self, kind))


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


Kind = str | Mapping[str, float]


class Meter:
    """A cost while channels go one by one: what is left, and what the next channels of a layer would free.

    `kind`: a field of `Cost`, or "channels"; or what an entry of each tensor costs, by name (others nothing), e.g. the
    time that was measured.
    """

    def __init__(self, coupling: Coupling, kind: Kind) -> None:
        by_channel = kind == "channels"
        self._unit: Mapping[str, float] = {}
        self.left: float
        if isinstance(kind, str):
            self.left = sum(layer.size for layer in coupling.layers) if by_channel else count(coupling).of(kind)
            self._unit = {} if by_channel else _units(coupling, kind)
        else:
            self.left = sum(unit * coupling.tensors[name].shape.numel() for name, unit in kind.items())
            self._unit = kind
        self._by_channel = by_channel
        self._shapes = {name: list(spec.shape) for name, spec in coupling.tensors.items()}
        self._steps: dict[str, dict[str, Counter[int]]] = {}
        self._neighbours: dict[str, set[str]] = {}
        holders: dict[str, set[str]] = {}
        for layer in coupling.layers:
            steps = self._steps.setdefault(layer.name, {})
            for s in layer.slices:
                steps.setdefault(s.tensor, Counter())[s.dim] += s.index.shape[1]
                holders.setdefault(s.tensor, set()).add(layer.name)
        for names in holders.values():
            for name in names:
                self._neighbours.setdefault(name, set()).update(names)

    def freed(self, layer: str, count: int) -> float:
        """What removing `count` more channels of a layer frees."""
        if self._by_channel:
            return count
        total: float = 0
        for tensor, dims in self._steps[layer].items():
            unit = self._unit.get(tensor, 0)
            if unit:
                shape = self._shapes[tensor]
                less = (size - count * dims[d] for d, size in enumerate(shape))
                total += unit * (math.prod(shape) - math.prod(less))
        return total

    def remove(self, layer: str, count: int) -> set[str]:
        """Remove channels; returns the layers whose next channels may free something else now."""
        self.left -= self.freed(layer, count)
        for tensor, dims in self._steps[layer].items():
            for d, positions in dims.items():
                self._shapes[tensor][d] -= count * positions
        return self._neighbours[layer]


def _units(coupling: Coupling, kind: str) -> dict[str, int]:
    """What an entry of each tensor costs."""
    if kind == "macs":
        positions = Counter[str]()
        for call in coupling.computations:
            positions[call.weight] += call.positions
        return positions
    if kind == "params":
        return {name: int(spec.parameter) for name, spec in coupling.tensors.items()}
    return {name: spec.itemsize for name, spec in coupling.tensors.items()}
