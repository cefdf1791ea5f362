"""A loss over data as a function of chosen parameters: what curvature is the curvature of."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from infprune import ranks
from infprune.curvature.losses import CROSS_ENTROPY, Loss
from infprune.curvature.space import ParameterSpace
from infprune.errors import ArchitectureError, ConfigError, InputError, out_of_memory
from infprune.forward import Inputs, each, picked, tensors
from infprune.imports import one_line


@dataclass(frozen=True)
class Objective:
    r"""The regularised empirical risk of MU eq. 1, as a function of the parameters of a space.

    .. math:: R(\theta) = \tfrac1N \sum_n \ell(f(x_n; \theta), y_n) + \tfrac{\lambda}{2} |\theta|^2

    `batches` are pairs (x, y) on the network's device that can be visited again, in the same order. Parameters outside
    the space stay as the network has them. Nothing here changes the network.

    Of several ranks, each has its share of the batches (`ranks.share`; `before`: sizes of those of lower ranks), and
    all of them ask for the same: value, gradient, number of samples, slopes and curvature are those of all batches.

    Raises:
        ArchitectureError: the network is in a mode in which samples depend on each other or on chance.
        ConfigError: the batches are an iterator.
    """

    module: nn.Module
    space: ParameterSpace
    batches: Iterable[tuple[Inputs, Tensor]]
    loss: Loss = CROSS_ENTROPY
    ridge: float = 0.0
    before: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.batches, Iterator):
            raise ConfigError("expected batches that can be visited again, got an iterator; pass a list of them")
        for name, m in self.module.named_modules():
            if m.training and isinstance(m, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - base of batch norms
                raise ArchitectureError(
                    f"{name or 'the network'}: expected batch norm in eval mode, got train mode, where samples depend "
                    "on each other and no curvature is a mean over samples; call module.eval()"
                )
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None:  # noqa: SLF001 - as above
                raise ArchitectureError(
                    f"{name or 'the network'}: batch norm without running statistics makes samples depend on each "
                    "other in eval mode too; set track_running_stats=True and train, or use another norm"
                )
            if m.training and isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0:  # noqa: SLF001 - as above
                raise ArchitectureError(
                    f"{name or 'the network'}: dropout in train mode makes the loss random; call module.eval()"
                )

    @property
    def theta(self) -> Tensor:
        """The parameters as the network has them, `(P,)`."""
        return self.space.values(self.module)

    def on(self, batches: Iterable[tuple[Inputs, Tensor]]) -> "Objective":
        """The same function of other data."""
        return replace(self, batches=batches, before=())

    def outputs(self, theta: Tensor, x: Inputs) -> Tensor:
        """The network's outputs (see `forward.picked`) with these parameters."""
        found = picked(functional_call(self.module, self.space.split(theta), tensors(x)))
        if not isinstance(found, Tensor):
            raise ArchitectureError(f"expected a tensor of outputs, got {type(found).__name__}")
        return found

    def losses(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, checked: `(N,)`.

        Raises:
            ConfigError: not one differentiable value per sample.
            InputError: NaN or infinity.
        """
        found = self.loss(z, y)
        if found.shape != (len(z),):
            raise ConfigError(f"expected a loss of one value per sample ({len(z)},), got shape {tuple(found.shape)}")
        if z.requires_grad and not found.requires_grad:
            raise ConfigError(
                "the loss is not differentiable: it does not depend on the outputs through differentiable operations; "
                "use one that does (accuracy and argmax do not)"
            )
        if not bool(torch.isfinite(found.detach()).all()):
            raise InputError("the loss is not finite; check weights and data for NaN, or targets outside its domain")
        return found

    @torch.no_grad()
    def value(self, theta: Tensor) -> float:
        """R(theta)."""
        total, samples = 0.0, 0
        for x, y in self.batches:
            total += float(self.losses(self.outputs(theta, x), y).sum(dtype=torch.float64))
            samples += len(y)
        total, count = ranks.totals(total, samples)
        return total / _some(count) + 0.5 * self.ridge * float(theta.square().sum(dtype=torch.float64))

    @torch.enable_grad()
    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient of R at theta, `(P,)`."""
        leaf = theta.detach().requires_grad_()
        total, samples = torch.zeros_like(theta), 0
        for x, y in self.batches:
            loss = self.losses(self.outputs(leaf, x), y).sum()
            total += differentiated(loss, leaf)
            samples += len(y)
        return ranks.total(total) / _some(ranks.totals(samples)[0]) + self.ridge * theta

    def jacobians(self, theta: Tensor, x: Inputs) -> Tensor:
        """The derivative of each sample's outputs in theta: `(N, K, P)`, by `torch.func.vmap`."""

        def one(at: Tensor, *sample: Tensor) -> Tensor:
            return self.outputs(at, each(lambda t: t[None], sample if len(sample) > 1 else sample[0]))[0]

        args = tensors(x)
        found: Tensor = vmap(jacrev(one), in_dims=(None, *[0] * len(args)))(theta, *args)
        return found

    @torch.enable_grad()
    def slopes(self, theta: Tensor, V: Tensor) -> Tensor:
        r"""The derivative of each sample's loss along the columns of V `(P, k)`: `(N, k)`, no gradient stored.

        .. math:: s_{nj} = \nabla_\theta \ell(f(x_n; \theta), y_n)^\top v_j

        The gradient of :math:`u^\top \ell` is linear in u `(N,)`; its product with v, differentiated in u, is s: one
        forward pass, one backward and one more per column, whatever N. The ridge belongs to no sample.

        Raises:
            ArchitectureError: the network cannot be differentiated twice.
        """
        leaf, found = theta.detach().requires_grad_(), []
        for x, y in self.batches:
            losses = self.losses(self.outputs(leaf, x), y)
            u = torch.ones_like(losses, requires_grad=True)
            g = once_more(partial(torch.autograd.grad, losses, leaf, u, create_graph=True, allow_unused=True))[0]
            g = twice(g)
            if g is None:
                found.append(losses.new_zeros(len(y), V.shape[1]))
                continue
            together = 1 if _convolves(self.module) else TOGETHER
            found.append(torch.cat([_slopes(g, u, part) for part in torch.split(V.to(g), together, 1)], 1))
        return ranks.joined(torch.cat(found) if found else theta.new_zeros(0, V.shape[1]))

    def samples(self) -> int:
        """How many samples there are."""
        return round(ranks.totals(sum(len(y) for _, y in self.batches))[0])

    def single(self) -> Iterator["Objective"]:
        """The loss of each batch, of this rank's, as an objective of its own."""
        for batch in self.batches:
            yield self.on([batch])


def differentiated(value: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of a scalar in the flat parameters; zero where it does not depend on them."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    found = once_more(lambda: torch.autograd.grad(value, leaf, allow_unused=True)[0])
    return torch.zeros_like(leaf) if found is None else found


def once_more(derivative: Callable[[], Any]) -> Any:
    """Take a derivative; an operation that has none is named in one line.

    Raises:
        ArchitectureError: an operation of the network cannot be differentiated (again).
    """
    try:
        return derivative()
    except RuntimeError as error:
        if out_of_memory(error) or not any(word in str(error) for word in DENIALS):
            raise
        raise ArchitectureError(
            f"the network cannot be differentiated twice: {one_line(error)}; replace that operation "
            "(attention: torch.nn.attention.sdpa_kernel with the MATH backend), or use curvature kfac"
        ) from error


def twice(gradient: Tensor | None) -> Tensor | None:
    """A gradient that may be differentiated again; None if it is constant.

    Raises:
        ArchitectureError: a part of its graph ends where an operation forbids it. Autograd would leave that part out
            without a word, because no error node lies between it and the parameters.
    """
    if gradient is None or gradient.grad_fn is None:
        return None
    seen, waiting = set[Any](), [gradient.grad_fn]
    while waiting:
        node = waiting.pop()
        if node.name() in FORBIDDING:
            raise ArchitectureError(
                "the network cannot be differentiated twice: an operation of its own allows one derivative "
                "(once_differentiable); write its backward in differentiable operations, or use curvature kfac"
            )
        following = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(following)
        waiting += following
    return gradient


DENIALS = ("not implemented", "does not support", "not differentiable", "differentiate twice")
TOGETHER = 32  # columns of a product that are multiplied at a time; each needs the memory of a backward pass
FORBIDDING = ("DelayedError", "torch::autograd::DelayedError", "torch::autograd::Error", "Error", "NotImplemented")


def _slopes(g: Tensor, u: Tensor, V: Tensor) -> Tensor:
    if V.shape[1] == 1:
        return torch.autograd.grad(g, u, V[:, 0], retain_graph=True)[0].detach()[:, None]
    return torch.autograd.grad(g, u, V.T, retain_graph=True, is_grads_batched=True)[0].detach().T


def _convolves(module: nn.Module) -> bool:
    """Whether columns are faster one at a time (docs/log.md)."""
    return any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())  # noqa: SLF001


def _some(samples: float) -> float:
    if samples == 0:
        raise InputError("expected at least one sample, got none; check the data and the batches")
    return samples
