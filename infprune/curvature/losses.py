"""Losses of one sample, with what curvature needs of them: the Hessian in the outputs, its root, labels drawn."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from infprune.errors import ConfigError, InputError


class Loss(ABC):
    """A twice differentiable function of a network's outputs z `(N, K)` and targets y, one value per sample."""

    @abstractmethod
    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, `(N,)`."""

    @abstractmethod
    def curvature(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """B_n u_n with B_n the Hessian of the sample's loss in its outputs; u is `(..., N, K)`."""

    @abstractmethod
    def root(self, z: Tensor) -> Tensor:
        """Columns r `(R, N, K)` with B_n = sum_r r_n r_n^T."""

    @abstractmethod
    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Targets from the distribution whose negative log-likelihood the loss is."""


class CrossEntropy(Loss):
    """-log softmax(z)_y in nats, y int64 `(N,)`; B = diag(p) - p p^T."""

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, `(N,)`."""
        return F.cross_entropy(z, y, reduction="none")

    def curvature(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """P (u - p^T u)."""
        del y
        p = z.detach().softmax(-1)
        return p * (u - (p * u).sum(-1, keepdim=True))

    def root(self, z: Tensor) -> Tensor:
        """sqrt(p_r) (p - e_r): the gradient at label r times the square root of that label's probability."""
        p = z.detach().softmax(-1)
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        return p.T.sqrt()[:, :, None] * (p - eye[:, None])

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """One label per row from softmax(z), on the CPU so that a seed means the same on every device."""
        probabilities = z.detach().cpu().double().softmax(1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(z.device)


class SquaredError(Loss):
    """1/2 |z - y|^2 summed over outputs, y like z; B = I (unit variance)."""

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, `(N,)`.

        Raises:
            InputError: the targets are not shaped like the outputs; broadcasting would compare every pair.
        """
        if y.shape != z.shape:
            raise InputError(f"expected targets like the outputs, {tuple(z.shape)}, got {tuple(y.shape)}")
        return 0.5 * (z - y).square().flatten(1).sum(1)

    def curvature(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """The vector itself."""
        del z, y
        return u

    def root(self, z: Tensor) -> Tensor:
        """Unit vectors."""
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return eye[:, None].expand(-1, len(z), -1)

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Z plus standard normal noise."""
        return z.detach() + torch.randn(z.shape, generator=generator).to(z)


@dataclass(frozen=True)
class AnyLoss(Loss):
    """Any differentiable `value(z, y) -> (N,)`; its output Hessian comes from differentiating twice.

    It is no likelihood, so nothing can be drawn; the root needs a positive semi-definite output Hessian.
    """

    value: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, `(N,)`."""
        return self.value(z, y)

    @torch.enable_grad()
    def curvature(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """Double backward through the outputs alone."""
        z = z.detach().requires_grad_()
        slope = torch.autograd.grad(self.value(z, y).sum(), z, create_graph=True)[0]
        if not slope.requires_grad:
            return torch.zeros_like(u)
        batched = u.dim() > z.dim()
        found = torch.autograd.grad(slope, z, u, is_grads_batched=batched, allow_unused=True)[0]
        return torch.zeros_like(u) if found is None else found

    def root(self, z: Tensor) -> Tensor:
        """Not known without targets."""
        del z
        raise ConfigError("this loss has no root of its output Hessian; use curvature ggn, hessian or empirical-fisher")

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Not a likelihood."""
        del z, generator
        raise ConfigError("no labels can be drawn from this loss; use curvature ggn, hessian or empirical-fisher")


def drawn(loss: Loss, z: Tensor, generator: torch.Generator, draws: int) -> Sequence[Tensor]:
    """Draw `draws` targets for each sample.

    All of one sample come before those of the next, so that the labels of `CrossEntropy` depend on the samples before
    it and the seed, and not on how the samples are batched. Normal noise (`SquaredError`) torch makes 16 at a time.
    """
    targets = loss.draw(z.detach().repeat_interleave(draws, 0), generator)
    return targets.reshape(len(z), draws, *targets.shape[1:]).unbind(1)


CROSS_ENTROPY = CrossEntropy()
SQUARED_ERROR = SquaredError()
