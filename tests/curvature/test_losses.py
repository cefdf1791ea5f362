import pytest
import torch
from torch.testing import assert_close

from infprune.curvature.losses import CROSS_ENTROPY, SQUARED_ERROR, AnyLoss
from infprune.errors import ConfigError

LOSSES = {"cross-entropy": CROSS_ENTROPY, "squared error": SQUARED_ERROR}


def problem(name):
    z = torch.randn(5, 3, dtype=torch.float64)
    return z, torch.arange(5) % 3 if name == "cross-entropy" else torch.randn(5, 3, dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_curvature_and_root_are_the_hessian_in_the_outputs(name):
    loss, (z, y) = LOSSES[name], problem(name)
    for n in range(len(z)):
        row = (slice(n, n + 1),)
        B = torch.autograd.functional.hessian(lambda t, row=row: loss(t[None], y[row])[0], z[n])
        u = torch.randn(4, 1, 3, dtype=torch.float64)
        assert_close(loss.curvature(z[row], y[row], u)[:, 0], u[:, 0] @ B)
        r = loss.root(z[row])[:, 0]
        assert_close(r.T @ r, B)
        assert_close(AnyLoss(loss).curvature(z[row], y[row], u)[:, 0], u[:, 0] @ B)
        assert_close(AnyLoss(loss).curvature(z[row], y[row], u[0])[0], B @ u[0, 0])
        assert_close(loss.curvature(z[row], y[row], u[0])[0], B @ u[0, 0])


@pytest.mark.parametrize("name", LOSSES)
def test_values_are_the_definition(name):
    loss, (z, y) = LOSSES[name], problem(name)
    p = z.exp() / z.exp().sum(1, keepdim=True)
    truth = -p[range(5), y].log() if name == "cross-entropy" else torch.stack([(a @ a) / 2 for a in z - y])
    assert_close(loss(z, y), truth)


def test_any_loss_is_no_likelihood():
    z = torch.zeros(2, 3)
    for work in (lambda o: o.root(z), lambda o: o.draw(z, torch.Generator())):
        with pytest.raises(ConfigError, match="use curvature ggn, hessian or empirical-fisher"):
            work(AnyLoss(CROSS_ENTROPY))


def test_labels_follow_the_model():
    z = torch.log(torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)).expand(20_000, -1)
    drawn = CROSS_ENTROPY.draw(z, torch.Generator().manual_seed(0))
    shares = drawn.bincount(minlength=3) / len(drawn)
    assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), rtol=0, atol=0.015)
    noise = SQUARED_ERROR.draw(z, torch.Generator().manual_seed(0)) - z
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
