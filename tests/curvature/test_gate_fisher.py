import pytest
import torch
from curved import EXACT
from torch.testing import assert_close

from infprune.curvature.gate_fisher import GateFisher

SHAPES = [(4, 9), (9, 4), (6, 6), (1, 5), (5, 1)]


@pytest.mark.parametrize(("samples", "gates"), SHAPES)
def test_products_diagonal_and_inverse(samples, gates):
    Z, V = torch.randn(samples, gates, dtype=torch.float64), torch.randn(gates, 3, dtype=torch.float64)
    F = sum(torch.outer(z, z) for z in Z) / samples
    made = GateFisher(Z)
    assert_close(made.to_dense(), F, **EXACT)
    assert_close(made.matmat(V), F @ V, **EXACT)
    assert_close(made.matvec(V[:, 0]), F @ V[:, 0], **EXACT)
    assert_close(made.diagonal(), F.diagonal(), **EXACT)
    inverse = torch.linalg.inv(F + 0.1 * torch.eye(gates, dtype=Z.dtype))
    assert_close(made.inverse(0.1).to_dense(), inverse, **EXACT)
    assert_close(made.inverse(0.1).matvec(V[:, 0]), inverse @ V[:, 0], **EXACT)


def test_the_inverse_is_of_the_smaller_side():
    """No C x C matrix for few samples: what is factorised is N x N, or C x C for few gates."""
    for samples, gates in SHAPES:
        made = GateFisher(torch.randn(samples, gates, dtype=torch.float64)).inverse(0.1)
        assert made._root.shape == (min(samples, gates),) * 2
