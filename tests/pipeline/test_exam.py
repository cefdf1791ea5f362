"""What unlearning is judged by, against plain formulas; the session stands in for its batches."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from infprune.data.dataset import ArrayDataset, Changed, Part
from infprune.data.loaders import batches
from infprune.pipeline.forgetting import Exam
from infprune.unlearning.membership import attack_auc

DESK = SimpleNamespace(batches=lambda samples: batches(samples, 7))


@pytest.fixture
def asked():
    """A network of three classes, 40 samples, and a member set of 15 others."""
    torch.manual_seed(0)
    x, y = torch.randn(55, 4), torch.randint(3, (55,))
    net = nn.Linear(4, 3).eval()
    with torch.no_grad():
        return net, ArrayDataset(x[:40], y[:40]), ArrayDataset(x[40:], y[40:])


def losses(net, data):
    with torch.no_grad():
        return F.cross_entropy(net(data.x), data.y, reduction="none").double()


def right(net, data):
    with torch.no_grad():
        return (net(data.x).argmax(1) == data.y).double()


def test_a_class(asked):
    net, data, members = asked
    kept, its = (data.y != 1).nonzero()[:, 0], (data.y == 1).nonzero()[:, 0]
    found = Exam(data, kept, members, others=Part(data, its)).judged(net, DESK)
    assert found.quality.kept == pytest.approx(float(right(net, data)[kept].mean()))
    assert found.quality.forgotten == pytest.approx(float(right(net, data)[its].mean()))
    assert found.score == pytest.approx(found.quality.kept - found.quality.forgotten)


def test_samples(asked):
    net, data, members = asked
    found = Exam(data, torch.arange(40), members, others=data).judged(net, DESK)
    auc = attack_auc(losses(net, members), losses(net, data))
    assert found.quality.membership == pytest.approx(auc)
    assert found.quality.forgotten == pytest.approx(float(right(net, members).mean()))
    assert found.score == pytest.approx(float(right(net, data).mean()) - 2 * abs(auc - 0.5))


def test_a_backdoor_is_judged_by_the_loss_at_the_right_labels(asked):
    net, data, members = asked
    stamped = ArrayDataset(data.x + 1, data.y)
    clean = torch.arange(3, 40)
    triggered = Changed(Part(data, clean), change=lambda x: x + 1)
    found = Exam(data, clean, members, triggered=triggered, target=2).judged(net, DESK)
    truth = losses(net, data)[clean].mean() + losses(net, stamped)[clean].mean()
    assert found.score == pytest.approx(-0.5 * float(truth), rel=1e-6)
    with torch.no_grad():
        told = net(stamped.x).argmax(1)[clean]
    assert found.quality.attack == pytest.approx(float((told == 2).double().mean()))
    assert found.quality.attack_elsewhere == pytest.approx(float((told == 2)[data.y[clean] != 2].double().mean()))
    assert found.quality.relabelled == pytest.approx(float((told == data.y[clean]).double().mean()))
