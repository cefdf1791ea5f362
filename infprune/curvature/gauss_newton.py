"""Matrices J^T B J: the generalised Gauss-Newton matrix and the Fishers differ only in the middle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from infprune import ranks
from infprune.curvature.graphs import MEMORY, Graphs, convolutional
from infprune.curvature.objective import Objective, once_more, twice
from infprune.curvature.operator import DENSE_LIMIT, LinearOperator, check_dense
from infprune.errors import out_of_memory
from infprune.forward import Inputs, each


class Core(Protocol):
    """The middle of J^T B J for the samples of one batch."""

    def __call__(self, z: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """B_n u_n for each sample, u `(..., N, K)`; symmetric and positive semi-definite."""

    def part(self, samples: slice) -> "Core":
        """The same for some of the samples."""


@dataclass(frozen=True)
class _Linear:
    """The outputs z of a batch with their graph, and the gradient J^T u, linear in u, with its own."""

    leaf: Tensor
    z: Tensor
    y: Tensor
    u: Tensor
    pulled: Tensor | None


class GaussNewton(LinearOperator):
    r"""1/N sum_n J_n^T B_n J_n with J_n = d f(x_n) / d theta, without the ridge. Positive semi-definite.

    A product differentiates u -> J^T u for J v (double backward), applies B, and pulls back: two backward passes
    through graphs that are kept while `memory` lasts. The dense matrix comes from per-sample Jacobians where
    `torch.func.vmap` can make them.

    Args:
        objective: the loss over data.
        cores: B of each batch; see `curvature.ggn` and `curvature.fisher`.
        theta: the point `(P,)`; None: where the network is.
        memory: bytes of graphs that are kept.

    Raises:
        ArchitectureError: an operation has no second derivative.
    """

    def __init__(
        self, objective: Objective, cores: Sequence[Core], theta: Tensor | None = None, memory: int = MEMORY
    ) -> None:
        self.objective, self.cores = objective, tuple(cores)
        self.theta = objective.theta if theta is None else theta.detach()
        self.shape = (len(self.theta), len(self.theta))
        self.dtype, self.device = self.theta.dtype, self.theta.device
        self._memory = memory
        self._single = convolutional(objective)
        self._graphs = Graphs(objective, self.theta, self._linearised, memory)

    def _linearised(self, leaf: Tensor, x: Inputs, y: Tensor) -> _Linear:
        z = self.objective.outputs(leaf, x)
        self.objective.losses(z.detach().requires_grad_(), y)  # its checks
        u = torch.zeros_like(z, requires_grad=True)
        pulled = None
        if z.requires_grad:
            pulled = twice(once_more(lambda: torch.autograd.grad(z, leaf, u, create_graph=True, allow_unused=True)[0]))
        return _Linear(leaf, z, y, u, pulled)

    def matmat(self, V: Tensor) -> Tensor:
        """1/N sum_n J_n^T B_n J_n V."""
        total = torch.zeros_like(V)
        together = 1 if self._single else self._graphs.together()
        for core, (_, lin) in zip(self.cores, self._graphs, strict=True):
            if lin.pulled is None:
                continue
            for start in range(0, V.shape[1], together):
                part = slice(start, start + together)
                total[:, part] += _product(core, lin, V[:, part])
        return ranks.total(total) / self._graphs.everywhere

    @property
    def parts(self) -> Sequence[LinearOperator]:
        """The matrix of each batch; their mean is this one where batches are equally large."""
        single = zip(self.objective.single(), self.cores, strict=True)
        return tuple(GaussNewton(o, [core], self.theta, self._memory) for o, core in single)

    def to_dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """The matrix `(P, P)` in float64, from per-sample Jacobians `(N, K, P)` in chunks of the memory budget."""
        size = len(self.theta)
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        check_dense(size, size, wide, limit)
        total = torch.zeros(size, size, dtype=wide, device=self.device)
        try:
            for core, (x, y) in zip(self.cores, self.objective.batches, strict=True):
                self._add_dense(total, core, x, y)
        except RuntimeError as error:
            if out_of_memory(error) or "vmap" not in str(error):
                raise
            return super().to_dense(limit)  # code that looks at single values cannot be mapped over samples
        return ranks.total(total) / self._graphs.everywhere

    def _add_dense(self, total: Tensor, core: Core, x: Inputs, y: Tensor) -> None:
        with torch.no_grad():
            z = self.objective.outputs(self.theta, x)
        outputs = z.shape[1:].numel()
        per_sample = 4 * outputs * len(self.theta) * z.itemsize + self._graphs.per_sample
        step = max(1, int(self._memory // per_sample))
        for i in range(0, len(y), step):
            part = slice(i, i + step)
            J = self.objective.jacobians(self.theta, each(lambda t, part=part: t[part], x))  # type: ignore[misc]
            moved = core.part(part)(z[part], y[part], J.movedim(-1, 0)).movedim(0, -1)
            total += (J.flatten(0, -2).T @ moved.flatten(0, -2)).to(total.dtype)


def _product(core: Core, lin: _Linear, V: Tensor) -> Tensor:
    """sum_n J_n^T B_n J_n V of one batch."""
    assert lin.pulled is not None
    pulled = lin.pulled
    batched = V.shape[1] > 1
    rows = V.T if batched else V[:, 0]

    def pushed() -> Tensor | None:
        if not pulled.requires_grad:
            return None
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            pulled, lin.u, rows, retain_graph=True, is_grads_batched=batched, allow_unused=True
        )
        return found[0]

    moved = once_more(pushed)
    if moved is None:
        return torch.zeros_like(V)
    weighed = core(lin.z.detach(), lin.y, moved)
    found = torch.autograd.grad(lin.z, lin.leaf, weighed, retain_graph=True, is_grads_batched=batched)[0]
    return found.T if batched else found[:, None]
