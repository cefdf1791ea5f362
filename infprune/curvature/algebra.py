"""Operators made of operators: dense, damped, summed, restricted to rows and columns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator


class Dense(LinearOperator):
    """A matrix that exists, `(m, n)`."""

    def __init__(self, matrix: Tensor, *, symmetric: bool = True) -> None:
        self.matrix = matrix
        self.shape = (len(matrix), matrix.shape[1])
        self.dtype, self.device = matrix.dtype, matrix.device
        self._symmetric = symmetric

    def matmat(self, V: Tensor) -> Tensor:
        """M V."""
        return self.matrix @ V

    @property
    def T(self) -> LinearOperator:
        """The transposed matrix."""
        return self if self._symmetric else Dense(self.matrix.T, symmetric=False)

    def diagonal(self) -> Tensor:
        """Read off."""
        return self.matrix.diagonal().clone()


class Damped(LinearOperator):
    """H + damping I, damping absolute."""

    def __init__(self, operator: LinearOperator, damping: float) -> None:
        self.operator, self.damping = operator, damping
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def matmat(self, V: Tensor) -> Tensor:
        """H V + damping V."""
        return self.operator.matmat(V) + self.damping * V

    @property
    def parts(self) -> Sequence[LinearOperator]:
        """Every part with the whole damping: their mean is this operator."""
        return tuple(Damped(p, self.damping) for p in self.operator.parts)

    def diagonal(self) -> Tensor:
        """The diagonal of H plus the damping."""
        return self.operator.diagonal() + self.damping


class Gram(LinearOperator):
    """M^T M + damping I: the normal equations of a least-squares problem; H^2 + damping I of a symmetric H."""

    def __init__(self, operator: LinearOperator, damping: float) -> None:
        self.operator, self.damping = operator, damping
        self.shape = (operator.shape[1], operator.shape[1])
        self.dtype, self.device = operator.dtype, operator.device

    def matmat(self, V: Tensor) -> Tensor:
        """M^T (M V) + damping V."""
        return self.operator.T.matmat(self.operator.matmat(V)) + self.damping * V


class Ridged(LinearOperator):
    """H + weight I_S: a ridge on the entries at some positions alone."""

    def __init__(self, operator: LinearOperator, positions: Tensor, weight: float) -> None:
        self.operator, self.positions, self.weight = operator, positions.to(operator.device), weight
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device

    def matmat(self, V: Tensor) -> Tensor:
        """H V, and weight V in the rows S."""
        return self.operator.matmat(V).index_add(0, self.positions, self.weight * V[self.positions])

    def diagonal(self) -> Tensor:
        """The diagonal of H, and the weight at S."""
        found = self.operator.diagonal()
        return found.index_add(0, self.positions, torch.full_like(found[self.positions], self.weight))


class Sum(LinearOperator):
    """sum_i c_i M_i of operators of one shape: several losses at one point."""

    def __init__(self, operators: Sequence[LinearOperator], scales: Sequence[float] | None = None) -> None:
        first = operators[0]
        assert all(o.shape == first.shape for o in operators)
        self.operators, self.scales = tuple(operators), tuple(scales or [1.0] * len(operators))
        self.shape, self.dtype, self.device = first.shape, first.dtype, first.device

    def matmat(self, V: Tensor) -> Tensor:
        """sum_i c_i M_i V."""
        total = V.new_zeros(self.shape[0], V.shape[1])
        for scale, operator in zip(self.scales, self.operators, strict=True):
            total += scale * operator.matmat(V)
        return total

    @property
    def T(self) -> LinearOperator:
        """The sum of the transposes."""
        return Sum([o.T for o in self.operators], self.scales)

    def diagonal(self) -> Tensor:
        """The sum of the diagonals."""
        return torch.stack([s * o.diagonal() for s, o in zip(self.scales, self.operators, strict=True)]).sum(0)


class Restricted(LinearOperator):
    """The block H_ab of rows a and columns b: positions in the range and the domain; None: all of them.

    With a = b it is the curvature of the entries a, all others held; with a all and b chosen it is H_{:,T}.
    """

    def __init__(self, operator: LinearOperator, rows: Tensor | None, columns: Tensor | None) -> None:
        self.operator = operator
        self.rows = None if rows is None else rows.to(operator.device)
        self.columns = None if columns is None else columns.to(operator.device)
        m, n = operator.shape
        self.shape = (m if rows is None else len(rows), n if columns is None else len(columns))
        self.dtype, self.device = operator.dtype, operator.device

    def matmat(self, V: Tensor) -> Tensor:
        """E_a^T H E_b V."""
        if self.columns is not None:
            whole = V.new_zeros(self.operator.shape[1], V.shape[1])
            whole[self.columns] = V
            V = whole
        found = self.operator.matmat(V)
        return found if self.rows is None else found[self.rows]

    @property
    def T(self) -> LinearOperator:
        """The block of the transpose: H_ba."""
        if self.rows is self.columns and self.operator.T is self.operator:
            return self
        return Restricted(self.operator.T, self.columns, self.rows)

    @property
    def parts(self) -> Sequence[LinearOperator]:
        """The blocks of the parts."""
        return tuple(Restricted(p, self.rows, self.columns) for p in self.operator.parts)

    def diagonal(self) -> Tensor:
        """Entries of the whole diagonal, of a principal block."""
        if self.rows is not self.columns or self.rows is None:
            return super().diagonal()
        return self.operator.diagonal()[self.rows]


def principal(operator: LinearOperator, positions: Tensor) -> Restricted:
    """The block H_aa."""
    positions = positions.to(operator.device)
    return Restricted(operator, positions, positions)
