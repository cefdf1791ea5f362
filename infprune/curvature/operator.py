"""The one contract of curvature: a matrix that is applied and need not exist."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from infprune.errors import ConfigError
from infprune.units import GIB

DENSE_LIMIT = 4 * GIB  # bytes of a matrix that `to_dense` makes unasked
COLUMNS = 256  # of the identity that are multiplied at a time


class LinearOperator(ABC):
    """A linear map from R^n to R^m, in a dtype and on a device; `shape` is (m, n)."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """Multiply the columns of V `(n, k)`: `(m, k)`."""

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply v `(n,)`: `(m,)`."""
        return self.matmat(v[:, None])[:, 0]

    @property
    def T(self) -> "LinearOperator":
        """The transpose; a symmetric operator is its own."""
        return self

    @property
    def parts(self) -> Sequence["LinearOperator"]:
        """Operators whose mean this one is, one per mini-batch where it has them: what LiSSA samples."""
        return (self,)

    def diagonal(self) -> Tensor:
        """The diagonal `(n,)` of a square operator: what Jacobi preconditioning divides by.

        By n products unless an operator knows better.
        """
        rows, size = self.shape
        assert rows == size
        found = torch.empty(size, dtype=self.dtype, device=self.device)
        for start in range(0, size, COLUMNS):
            stop = min(start + COLUMNS, size)
            found[start:stop] = self.matmat(self._identity(start, stop))[start:stop].diagonal()
        return found

    def to_dense(self, limit: int = DENSE_LIMIT) -> Tensor:
        """The matrix `(m, n)` in float64 (float32 where the device has no other).

        Raises:
            ConfigError: it would take more than `limit` bytes.
        """
        rows, size = self.shape
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        check_dense(rows, size, wide, limit)
        found = torch.empty(rows, size, dtype=wide, device=self.device)
        for start in range(0, size, COLUMNS):
            stop = min(start + COLUMNS, size)
            found[:, start:stop] = self.matmat(self._identity(start, stop))
        return found

    def _identity(self, start: int, stop: int) -> Tensor:
        eye = torch.zeros(self.shape[1], stop - start, dtype=self.dtype, device=self.device)
        eye[torch.arange(start, stop), torch.arange(stop - start)] = 1
        return eye


def check_dense(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    limit: int = DENSE_LIMIT,
    advice: str = "use a matrix-free solver (influence.solver=cg) or curvature kfac",
) -> None:
    """Refuse a matrix that is too large.

    Raises:
        ConfigError: more than `limit` bytes; `advice` says what to do instead.
    """
    size = rows * columns * dtype.itemsize
    if size > limit:
        raise ConfigError(
            f"a dense {rows:,} x {columns:,} curvature needs {size / GIB:,.1f} GiB ({size:,} bytes), at most "
            f"{limit / GIB:,.1f} GiB are allowed; {advice}"
        )
