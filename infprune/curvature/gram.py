"""Sums of outer products of im2col columns, without all the columns: what the factor A of a weight is made of."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from infprune import ranks
from infprune.curvature.patches import chunks, columns
from infprune.curvature.positions import ALL, Positions

BLOCK = 512  # rows of a symmetric product that are computed at once


class Gram(Protocol):
    """Adds up a a^T over samples and positions, `a` a column with a last 1: `(G, D, D)`, in the dtype of the inputs."""

    @property
    def device(self) -> torch.device:
        """Where the sum is."""

    def add(self, x: Tensor, at: Positions) -> None:
        """Add the inputs of one call, on these output positions."""

    def total(self, dtype: torch.dtype | None = None) -> Tensor:
        """The sum so far, a new tensor, in another dtype if given."""

    def reduce(self) -> None:
        """Add up over ranks; all of them have seen inputs of the same sizes."""


def gram_of(module: nn.Module, x: Tensor, at: Positions) -> Gram:
    """The cheaper way for inputs like `x`: by lags, on all positions whatever `at`, or by columns."""
    if not lagged(module):
        return Columns(module)
    space = x.shape[2:]
    wanted = torch.Size(at.grid(space)).numel()
    return Lags() if products(*space) <= 81 * wanted else Columns(module)


def gram(module: nn.Module, x: Tensor, *, at: Positions = ALL) -> Tensor:
    """The sum for one input."""
    found = gram_of(module, x, at)
    found.add(x, at)
    return found.total()


class Columns:
    """From unfolded columns, a part of the samples at a time; only blocks on and below the diagonal are multiplied."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._sum = torch.empty(0)

    @property
    def device(self) -> torch.device:
        """That of the matrix."""
        return self._sum.device

    def add(self, x: Tensor, at: Positions) -> None:
        """Unfold and multiply."""
        for part, where in chunks(self._module, x, at=at):
            c = columns(self._module, x[part], ones=True, at=where)
            if self._sum.numel() == 0:
                self._sum = c.new_zeros(*c.shape[:2], c.shape[1])
            for group, total in zip(c, self._sum, strict=True):
                add_product(total, group)

    def total(self, dtype: torch.dtype | None = None) -> Tensor:
        """The sum, mirrored at its diagonal."""
        return mirrored(self._sum.to(dtype or self._sum.dtype, copy=True))

    def reduce(self) -> None:
        """Add up the matrix."""
        self._sum = ranks.total(self._sum)


def add_product(total: Tensor, rows: Tensor) -> None:
    """Add rows rows^T to the lower triangle of `total`; blocks on the diagonal are whole."""
    for i in range(0, len(rows), BLOCK):
        own = rows[i : i + BLOCK]
        total[i : i + BLOCK, : i + len(own)].addmm_(own, rows[: i + len(own)].T)


def mirrored(total: Tensor) -> Tensor:
    """Copy the lower triangles of `(G, D, D)` to the upper ones, in place."""
    for i in range(0, total.shape[1], BLOCK):
        total[:, :i, i : i + BLOCK] = total[:, i : i + BLOCK, :i].mT
        own = total[:, i : i + BLOCK, i : i + BLOCK]
        own.copy_(own.tril() + own.tril(-1).mT)
    return total


def lagged(module: Any) -> bool:
    """Whether `Lags` knows the module: 3x3, stride 1, zeros around, as large an output as input."""
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.dilation, module.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and module.padding in ((1, 1), "same")
        and module.padding_mode == "zeros"
    )


def products(height: int, width: int) -> int:
    """Outer products of two positions that `Lags` takes per sample."""
    rows, cols = (sum(max(size - lag, 0) for lag in range(3)) for size in (height, width))
    return rows * (2 * cols - width) - height * (cols - width) + 2 * rows + 2 * cols + 4


class Lags:
    r"""A 3x3 patch Gram from correlations of the input with itself, shifted.

    The block of kernel offsets k and k' is sum_q x_q x_{q+k'-k}^T over the q that offset k reaches: with zeros around,
    the correlation R_d of lag d = k' - k, of which there are 25, or 13 up to transposition, instead of 81 blocks.
    Offset 0 of an axis does not reach its last row, offset 2 not its first; pairs of different rows are unharmed,
    because the other one is then outside. So R is corrected where d is 0 along an axis, by the correlations within
    that border, and at the corners where d = (0, 0) (inclusion and exclusion).
    """

    def __init__(self) -> None:
        self._whole: dict[tuple[int, int], Tensor] = {}  # by lag: `(C, C)`
        self._rows: dict[tuple[int, int], Tensor] = {}  # by border (0 first, 1 last) and lag along it
        self._cols: dict[tuple[int, int], Tensor] = {}
        self._corners: dict[tuple[int, int], Tensor] = {}
        self._sums: Tensor | None = None  # `(C, 3, 3)`
        self._positions = 0

    @property
    def device(self) -> torch.device:
        """That of the correlations."""
        assert self._sums is not None
        return self._sums.device

    def add(self, x: Tensor, at: Positions) -> None:
        """Correlate; all positions are taken."""
        del at
        X = x.permute(2, 3, 0, 1).contiguous()  # (H, W, N, C)
        H, W = X.shape[:2]
        for dx in range(min(3, W)):
            left, right = X[:, : W - dx].flatten(1, 2), X[:, dx:].flatten(1, 2)
            for dy in range(min(3, H)):
                _correlate(self._whole, (dy, dx), left[: H - dy], right[dy:])
                if dx and dy:
                    _correlate(self._whole, (dy, -dx), right[: H - dy], left[dy:])
            for border in (0, 1):
                _correlate(self._rows, (border, dx), left[-border], right[-border])
        for dy in range(min(3, H)):
            for border in (0, 1):
                _correlate(self._cols, (border, dy), X[: H - dy, -border], X[dy:, -border])
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            _correlate(self._corners, (i, j), X[-i, -j], X[-i, -j])
        sums = _reached(X.sum(2))
        self._sums = sums if self._sums is None else self._sums + sums
        self._positions += X.shape[:3].numel()

    def total(self, dtype: torch.dtype | None = None) -> Tensor:
        """Put the blocks together."""
        assert self._sums is not None
        C = len(self._sums)
        found = self._sums.new_zeros(C * 9 + 1, C * 9 + 1, dtype=dtype or self._sums.dtype)
        size = C * 9 + 1
        blocks = found.as_strided((C, 9, C, 9), (9 * size, size, 9, 1))
        for k, m in ((k, m) for k in range(9) for m in range(9)):
            block = self._block(divmod(k, 3), divmod(m, 3))
            if block is not None:
                blocks[:, k, :, m] = block
        found[-1, :-1] = found[:-1, -1] = self._sums.flatten()
        found[-1, -1] = self._positions
        return found[None]

    def reduce(self) -> None:
        """Add up the correlations."""
        assert self._sums is not None
        for store in (self._whole, self._rows, self._cols, self._corners):
            for key, value in store.items():
                store[key] = ranks.total(value)
        self._sums, self._positions = ranks.total(self._sums), round(ranks.totals(self._positions)[0])

    def _block(self, k: tuple[int, int], m: tuple[int, int]) -> Tensor | None:
        dy, dx = m[0] - k[0], m[1] - k[1]
        if (dy, dx) < (0, 0):
            other = self._block(m, k)
            return None if other is None else other.T
        block = self._whole.get((dy, dx))
        if block is None:
            return None
        row, col = k[0] != 1 and dy == 0, k[1] != 1 and dx == 0
        i, j = int(k[0] == 0), int(k[1] == 0)  # the borders that the offset does not reach
        if row:
            block = block - self._rows[i, dx]
        if col:
            block = block - self._cols[j, dy]
        return block + self._corners[i, j] if row and col else block


def _correlate(store: dict[tuple[int, int], Tensor], key: tuple[int, int], a: Tensor, b: Tensor) -> None:
    """Add sum a b^T over all positions; both `(..., C)`."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    if key in store:
        store[key].addmm_(a.T, b)
    else:
        store[key] = a.T @ b


def _reached(X: Tensor) -> Tensor:
    """What each of the nine offsets reaches of a map `(H, W, C)`, summed: `(C, 3, 3)`."""
    reach = (slice(None, -1), slice(None), slice(1, None))
    return torch.stack([torch.stack([X[rows, cols].sum((0, 1)) for cols in reach], -1) for rows in reach], -2)
