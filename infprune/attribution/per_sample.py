"""Gradients of single samples, a chunk at a time: all of them, N x P, never exist together."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import grad, vmap

from infprune.curvature.objective import Objective
from infprune.errors import ArchitectureError, out_of_memory
from infprune.forward import Inputs, each, split, tensors
from infprune.imports import one_line

COPIES = 4  # of a chunk of gradients that exist while it is made and used


def gradients(objective: Objective, memory: int) -> Iterator[Tensor]:
    r"""Rows :math:`\nabla_\theta \ell(f(x_n; \theta), y_n)`, `(n, P)`, of the samples in order; without the ridge.

    By `torch.func.vmap`, in chunks that take at most about `memory` bytes (a single sample may take more).

    Raises:
        ArchitectureError: the network cannot be mapped over samples.
        InputError: the loss is not finite.
    """
    theta = objective.theta
    step = max(1, int(memory // (COPIES * theta.nbytes)))

    def loss(at: Tensor, y: Tensor, *sample: Tensor) -> Tensor:
        x: Inputs = sample if len(sample) > 1 else sample[0]
        return objective.loss(objective.outputs(at, each(lambda t: t[None], x)), y[None])[0]

    for x, y in objective.batches:
        with torch.no_grad():
            objective.losses(objective.outputs(theta, x), y)  # its checks
        for some, labels in zip(split(x, step), torch.split(y, step), strict=True):
            args = tensors(some)
            try:
                found: Tensor = vmap(grad(loss), in_dims=(None, 0, *[0] * len(args)))(theta, labels, *args)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise
                raise ArchitectureError(
                    f"no gradients of single samples: the network cannot be mapped over them ({one_line(error)}); "
                    "use method influence, el2n or forgetting"
                ) from error
            yield found.detach()  # parameters outside the space keep a graph
