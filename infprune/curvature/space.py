"""Which parameters of a network curvature speaks of, and where each stands in the flat vector theta."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Size, Tensor, nn

from infprune.errors import ConfigError


@dataclass(frozen=True)
class ParameterSpace:
    """An ordered choice of a network's parameters: theta = cat of the flattened tensors, `(P,)`."""

    names: tuple[str, ...]
    shapes: tuple[Size, ...]

    @classmethod
    def of(cls, module: nn.Module, names: Iterable[str] | None = None) -> "ParameterSpace":
        """The named parameters of a network, in its own order; None: all of them. Tied ones have one name.

        Raises:
            ConfigError: it has no parameter of such a name, or none is left.
        """
        present = dict(module.named_parameters())
        chosen = set(present) if names is None else set(names)
        for name in sorted(chosen - present.keys()):
            near = get_close_matches(name, present, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(present)[:4])}, ..."
            raise ConfigError(f"the network has no parameter {name}; {hint}")
        if not chosen:
            raise ConfigError("expected at least one parameter, got a network (or a choice) without any")
        ordered = tuple(name for name in present if name in chosen)
        return cls(ordered, tuple(present[name].shape for name in ordered))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def size(self) -> int:
        """Number of parameters `P`."""
        return sum(self.sizes)

    def values(self, module: nn.Module) -> Tensor:
        """Theta as the network has it: `(P,)`, detached."""
        parameters = dict(module.named_parameters())
        return torch.cat([parameters[name].detach().flatten() for name in self.names])

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """A vector `(..., P)` as tensors of the parameters' shapes, views where that is possible."""
        parts = torch.split(theta, list(self.sizes), dim=-1)
        return {n: t.reshape(*theta.shape[:-1], *s) for n, s, t in zip(self.names, self.shapes, parts, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split` without leading dimensions."""
        return torch.cat([tensors[name].flatten() for name in self.names])

    def load(self, module: nn.Module, theta: Tensor) -> None:
        """Write theta into the network."""
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in self.split(theta).items():
                parameters[name].copy_(value)

    def at(self, name: str, dim: int = 0, index: Tensor | None = None) -> Tensor:
        """Positions in theta of the slices `index` along `dim` of a parameter, ascending; None: of all of it.

        Raises:
            ConfigError: the space has no such parameter.
        """
        if name not in self.names:
            raise ConfigError(f"{name} is not among the {len(self.names)} parameters looked at; add it to them")
        where = self.names.index(name)
        start, shape = sum(self.sizes[:where]), self.shapes[where]
        positions = torch.arange(start, start + shape.numel())
        if index is None:
            return positions
        return positions.reshape(shape).index_select(dim, index.cpu().flatten()).flatten().sort().values
