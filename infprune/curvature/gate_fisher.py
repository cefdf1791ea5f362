"""The Fisher of channel gates as an operator."""

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator


class GateFisher(LinearOperator):
    """F = Z^T Z / N of gate gradients Z `(N, C)`; see `curvature.gates`. Never more than N x C or C x C numbers."""

    def __init__(self, Z: Tensor) -> None:
        self.Z = Z
        self.shape = (Z.shape[1], Z.shape[1])
        self.dtype, self.device = Z.dtype, Z.device

    def matmat(self, V: Tensor) -> Tensor:
        """Z^T (Z V) / N."""
        return self.Z.T @ (self.Z @ V) / len(self.Z)

    def diagonal(self) -> Tensor:
        """Mean squares."""
        return self.Z.square().mean(0)

    def inverse(self, damping: float) -> LinearOperator:
        """(F + damping I)^-1 for a positive damping: by Cholesky, of an N x N matrix where N < C (Woodbury)."""
        return _Inverse(self.Z, damping)


class _Inverse(LinearOperator):
    r"""With Y = Z / sqrt(N): (Y^T Y + d I)^-1 = (I - Y^T (Y Y^T + d I)^-1 Y) / d."""

    def __init__(self, Z: Tensor, damping: float) -> None:
        self._Y, self._damping = Z / len(Z) ** 0.5, damping
        self.shape = (Z.shape[1], Z.shape[1])
        self.dtype, self.device = Z.dtype, Z.device
        self._wide = len(Z) < Z.shape[1]
        inner = self._Y @ self._Y.T if self._wide else self._Y.T @ self._Y
        inner.diagonal().add_(damping)
        self._root = torch.linalg.cholesky(inner)

    def matmat(self, V: Tensor) -> Tensor:
        """Apply the inverse."""
        if not self._wide:
            return torch.cholesky_solve(V, self._root)
        inner: Tensor = torch.cholesky_solve(self._Y @ V, self._root)
        found: Tensor = (V - self._Y.T @ inner) / self._damping
        return found
