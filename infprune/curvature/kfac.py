"""KFAC and EKFAC: one Kronecker-factored block per convolution or linear layer, in its eigenbasis."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.curvature.kronecker import KroneckerFactors, KroneckerObserver, wide
from infprune.curvature.objective import Objective
from infprune.curvature.operator import LinearOperator
from infprune.curvature.patches import assigned, columns, matrix, outputs
from infprune.curvature.space import ParameterSpace
from infprune.curvature.sweep import LabelSource, Observer, Sweep
from infprune.errors import ArchitectureError, InputError

KINDS = (nn.Linear, nn.modules.conv._ConvNd)  # noqa: SLF001 - base of all convolutions


@dataclass(frozen=True)
class Block:
    r"""H = (Q_G (x) Q_A) diag(values) (Q_G (x) Q_A)^T for one weight and its bias, per group of a convolution.

    `outer` Q_G `(G, O/G, O/G)`, `inner` Q_A `(G, D, D)` with a last column for the bias if there is one, `values`
    `(G, O/G, D)`.
    """

    module: str
    weight: str
    bias: str | None
    outer: Tensor
    inner: Tensor
    values: Tensor

    def rotate(self, V: Tensor) -> Tensor:
        """Q_G^T V Q_A for V `(k, G, O/G, D)`."""
        return self.outer.mT @ V @ self.inner

    def back(self, V: Tensor) -> Tensor:
        """Q_G V Q_A^T."""
        return self.outer @ V @ self.inner.mT

    def diagonal(self) -> Tensor:
        """The diagonal of H, `(G, O/G, D)`."""
        return self.outer.square() @ self.values @ self.inner.square().mT


class Kronecker(LinearOperator):
    """A block-diagonal curvature over a parameter space, float64, whose damped inverse is another one.

    Blocks between different layers are taken to be zero: parameters of other layers do not adapt.
    """

    def __init__(self, space: ParameterSpace, module: nn.Module, blocks: Mapping[str, Block]) -> None:
        self.space, self.module, self.blocks = space, module, dict(blocks)
        first = next(iter(self.blocks.values())).values
        self.shape = (space.size, space.size)
        self.dtype, self.device = first.dtype, first.device

    def matmat(self, V: Tensor) -> Tensor:
        """H V."""
        parts = self.space.split(V.T.to(self.dtype))
        found: dict[str, Tensor] = {}
        for block in self.blocks.values():
            moved = block.back(block.values * block.rotate(self._gathered(block, parts)))
            found |= self._scattered(block, moved)
        return torch.cat([found[name].flatten(1) for name in self.space.names], dim=1).T

    def inverse(self, damping: float) -> "Kronecker":
        """(H + damping I)^-1, exactly; zero eigenvalues need a positive damping."""
        return self._with({name: 1.0 / (b.values + damping) for name, b in self.blocks.items()})

    def power(self, exponent: float) -> "Kronecker":
        """H^exponent; a negative one needs positive eigenvalues."""
        return self._with({name: b.values**exponent for name, b in self.blocks.items()})

    def damped(self, damping: float) -> "Kronecker":
        """H + damping I, as an operator that can be inverted in closed form."""
        return self._with({name: b.values + damping for name, b in self.blocks.items()})

    def diagonal(self) -> Tensor:
        """The diagonal, in closed form."""
        found: dict[str, Tensor] = {}
        for block in self.blocks.values():
            found |= self._scattered(block, block.diagonal()[None])
        return torch.cat([found[name].flatten() for name in self.space.names])

    def _with(self, values: Mapping[str, Tensor]) -> "Kronecker":
        changed = {name: replace(b, values=values[name]) for name, b in self.blocks.items()}
        return Kronecker(self.space, self.module, changed)

    def _gathered(self, block: Block, parts: Mapping[str, Tensor]) -> Tensor:
        """The entries of a block, `(k, G, O/G, D)`."""
        owner = self.module.get_submodule(block.module)
        weight: Tensor = torch.func.vmap(partial(matrix, owner))(parts[block.weight])
        if block.bias is None:
            return weight
        return torch.cat([weight, parts[block.bias].reshape(*weight.shape[:3], 1)], dim=3)

    def _scattered(self, block: Block, V: Tensor) -> dict[str, Tensor]:
        owner = self.module.get_submodule(block.module)
        weight = V if block.bias is None else V[..., :-1]
        found: dict[str, Tensor] = {block.weight: torch.func.vmap(partial(assigned, owner, dtype=V.dtype))(weight)}
        if block.bias is not None:
            found[block.bias] = V[..., -1].flatten(1)
        return found


def covered(module: nn.Module) -> tuple[ParameterSpace, tuple[str, ...]]:
    """The parameters that KFAC speaks of, and the names of those that it leaves out.

    Those are of norms, embeddings (also where a linear layer shares them), reparametrised weights (weight norm),
    grouped transposed convolutions, and bare ones.
    """
    inside = {name for pair in _layers(module).values() for name in pair if name is not None}
    return ParameterSpace.of(module, inside), tuple(n for n, _ in module.named_parameters() if n not in inside)


def _layers(network: nn.Module) -> dict[str, tuple[str, str | None]]:
    """The names of weight and bias of each module that KFAC covers; of those that share a weight, the first."""
    own = {id(p): name for name, p in network.named_parameters()}
    elsewhere = {id(p) for m in network.modules() if not isinstance(m, KINDS) for p in m.parameters(recurse=False)}
    found: dict[str, tuple[str, str | None]] = {}
    for name, m in network.named_modules():
        if not isinstance(m, KINDS) or (getattr(m, "transposed", False) and m.groups != 1):  # nothing unfolds these
            continue
        weight = own.get(id(m.weight))
        if weight is None or id(m.weight) in elsewhere or weight in {w for w, _ in found.values()}:
            continue
        found[name] = (weight, None if m.bias is None else own[id(m.bias)])
    return found


def kfac(
    objective: Objective, theta: Tensor | None = None, *, labels: LabelSource = LabelSource.EXACT, seed: int = 0
) -> Kronecker:
    r"""G (x) A per layer (Martens and Grosse 2015; convolutions: Grosse and Martens 2016), without the ridge.

    Equals the layers' blocks of the GGN for a deep linear network with squared error and one output position.

    Args:
        objective: the loss over data.
        theta: the point `(P,)`; None: where the network is.
        labels: EXACT sums over the columns of the root of the loss's curvature (one backward pass per output), MODEL
            draws one label per sample, DATA takes the data's own (empirical Fisher).
        seed: of the drawn labels.

    Raises:
        ArchitectureError: the space holds parameters of other modules than convolutions and linear layers (see
            `covered`), or of modules that are never called.
        InputError: there are no samples.
    """
    at, layers = _opened(objective, theta)
    passes = _passes(objective, labels)
    observer = KroneckerObserver(layers, labels=labels)
    sweep = Sweep(at, list(layers), [observer], objective.loss)
    sweep.run(objective.batches, seed=seed, draws=1, before=objective.before)
    factors = observer.result(passes)
    for name in layers.keys() - factors.keys():
        raise ArchitectureError(
            f"KFAC needs the inputs of {name}, which is not called in eval mode (an auxiliary head, or code that uses "
            "its weight by itself); leave its parameters out, or use curvature ggn"
        )
    blocks = {name: _block(name, weight, bias, factors[name]) for name, (weight, bias) in layers.items()}
    return Kronecker(objective.space, at, blocks)


def ekfac(
    objective: Objective, theta: Tensor | None = None, *, labels: LabelSource = LabelSource.EXACT, seed: int = 0
) -> Kronecker:
    r"""KFAC's eigenvectors with the second moments of the gradient along them (George et al. 2018): a second pass.

    values = E_n (Q_G^T dW_n Q_A)^2, dW_n the gradient of one sample's loss. The nearest matrix to the GGN with these
    eigenvectors. Arguments and errors as `kfac`, and ArchitectureError for a module that is called twice.
    """
    base = kfac(objective, theta, labels=labels, seed=seed)
    names = sorted(base.blocks)
    observer = _Eigenvalues(base.blocks, labels)
    sweep = Sweep(base.module, names, [observer], objective.loss)
    sweep.run(objective.batches, seed=seed, draws=1, before=objective.before)
    samples = objective.samples()
    blocks = {name: replace(b, values=observer.result(name, samples)) for name, b in base.blocks.items()}
    return Kronecker(base.space, base.module, blocks)


class CalledTwiceError(ArchitectureError):
    """A module runs more than once, so that its gradient is a sum over calls."""


class Rotated(Observer):
    """One sample's weight gradients in the eigenbasis of each block: `seen` gets their squares.

    A layer with one output position (a linear one on vectors) has gradients of rank one: their squares are products of
    those of the two rotated sides, and no gradient of a sample is made.
    """

    def __init__(self, blocks: Mapping[str, Block], labels: LabelSource) -> None:
        self.labels = labels
        self._blocks = blocks
        self._rotated: dict[str, Tensor] = {}
        self._ended = False

    def seen(self, name: str, at: slice, outer: Tensor, inner: Tensor | None) -> None:
        """Squares of gradients of the samples `at` of the batch.

        `outer` is `(G, O/G, n)` and `inner` `(G, D, n)`, whose products the squares are; or, with `inner` None,
        `outer` is all of them, `(G, O/G, n, D)`.
        """
        raise NotImplementedError

    def forward(self, name: str, module: Any, x: Tensor) -> None:
        """Rotate the inputs."""
        if self._ended:
            self._rotated, self._ended = {}, False
        if name in self._rotated:
            raise CalledTwiceError(f"{name} is called twice; EKFAC needs modules that run once (use curvature kfac)")
        block = self._blocks[name]
        found = columns(module, x, ones=block.bias is not None).to(block.inner.dtype)
        self._rotated[name] = self._per_sample(block.inner.mT @ found, len(x))

    def output_gradient(self, name: str, module: nn.Module, y: Tensor | None, gradient: Tensor) -> None:
        """Rotate the gradients, and multiply."""
        del y
        block, inner = self._blocks[name], self._rotated[name]
        rows = outputs(module, gradient).to(block.outer.dtype)
        outer = self._per_sample(block.outer.mT @ rows, len(gradient))
        if outer.shape[3] == 1:
            self.seen(name, slice(0, len(gradient)), outer[..., 0].square(), inner[..., 0].square())
            return
        for part in range(0, len(gradient), _CHUNK):
            at = slice(part, min(part + _CHUNK, len(gradient)))
            moment = torch.einsum("gonp,gdnp->gond", outer[:, :, at], inner[:, :, at])
            self.seen(name, at, moment.square(), None)

    def batch(self, samples: int, gradients: Mapping[str, Tensor]) -> None:
        """Forget the inputs when the next ones come."""
        del samples, gradients
        self._ended = True

    @staticmethod
    def _per_sample(found: Tensor, samples: int) -> Tensor:
        """`(G, D, N * P)` to `(G, D, N, P)`: all positions are kept, so samples stand one after the other."""
        return found.reshape(*found.shape[:2], samples, -1)


class _Eigenvalues(Rotated):
    """Second moments of one sample's weight gradient in the eigenbasis."""

    def __init__(self, blocks: Mapping[str, Block], labels: LabelSource) -> None:
        super().__init__(blocks, labels)
        self._sums = {name: torch.zeros_like(b.values) for name, b in blocks.items()}

    def seen(self, name: str, at: slice, outer: Tensor, inner: Tensor | None) -> None:
        del at
        self._sums[name] += outer.sum(2) if inner is None else outer @ inner.mT

    def result(self, name: str, samples: int) -> Tensor:
        """The means over samples."""
        return ranks.total(self._sums[name]) / samples


_CHUNK = 16  # samples whose weight gradients exist at a time


def _opened(objective: Objective, theta: Tensor | None) -> tuple[nn.Module, dict[str, tuple[str, str | None]]]:
    """The network at theta, and its layers whose weights the space holds, with their biases if it holds these too."""
    at = objective.module
    if theta is not None:
        at = copy.deepcopy(at)
        objective.space.load(at, theta)
    chosen = set(objective.space.names)
    layers = {n: (w, b if b in chosen else None) for n, (w, b) in sorted(_layers(at).items()) if w in chosen}
    left = sorted(chosen - {name for pair in layers.values() for name in pair})
    if left:
        raise ArchitectureError(
            f"KFAC covers weights (and biases with them) of convolutions and linear layers, not {', '.join(left[:3])}"
            f"{' ...' if len(left) > 3 else ''}; leave them out, or use curvature ggn"
        )
    return at, layers


def _passes(objective: Objective, labels: LabelSource) -> int:
    if labels is not LabelSource.EXACT:
        return 1
    with torch.no_grad():
        for x, _ in objective.batches:
            return len(objective.loss.root(objective.outputs(objective.theta, x)))
    raise InputError("expected at least one sample for the curvature, got none; check the data")


def _block(name: str, weight: str, bias: str | None, factors: KroneckerFactors) -> Block:
    A, G = factors.inputs.dense(), factors.gradients
    A = A if bias is not None else A[:, :-1, :-1]
    (a, inner), (g, outer) = (torch.linalg.eigh(M.to(wide(M.device))) for M in (A, G))
    values = g.clamp_min(0)[:, :, None] * a.clamp_min(0)[:, None, :]
    return Block(name, weight, bias, outer, inner, values)
