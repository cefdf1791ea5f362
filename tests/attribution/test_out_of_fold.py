"""Out-of-fold loss: every sample is judged by networks that did not see it, so flipped labels come first."""

import pytest
import torch
from problems import blobs, inputs, network
from torch.nn import functional as F

from infprune.attribution import out_of_fold
from infprune.data.dataset import Part
from infprune.errors import ConfigError
from infprune.training import train


@pytest.mark.parametrize(("count", "folds"), [(10, 5), (11, 4), (3, 3)])
def test_folds_share_the_samples_evenly(count, folds):
    sizes = torch.bincount(out_of_fold._folds(count, folds, 0), minlength=folds)
    assert int(sizes.sum()) == count
    assert int(sizes.max() - sizes.min()) <= 1


def test_it_is_the_loss_of_networks_trained_on_the_other_folds():
    x, y = blobs()
    task = inputs(x, y, seed=2, seeds=1, folds=3)
    fold, truth = out_of_fold._folds(60, 3, 2), torch.zeros(60, dtype=torch.float64)
    for k in range(3):
        others, held = (fold != k).nonzero()[:, 0], fold == k
        learning = task.learning
        net = train(
            network(2 + k), Part(task.train, others), learning.validation, learning.recipe, seed=2 + k
        ).module.eval()
        truth[held] = F.cross_entropy(net(x[held]).detach().double(), y[held], reduction="none")
    found = out_of_fold.compute(task)
    torch.testing.assert_close(found.scores, truth, rtol=1e-5, atol=1e-6)
    assert found.facts == {"folds": 3, "divisions": 1}


def test_flipped_labels_come_first():
    x, y = blobs(n=120)
    wrong = torch.arange(0, 120, 20)
    y[wrong] = (y[wrong] + 1) % 3
    found = out_of_fold.compute(inputs(x, y, seeds=3, folds=4))
    first = found.scores.argsort(descending=True)[:12]
    assert torch.isin(wrong, first).sum() >= 5


def test_more_folds_than_samples():
    x, y = blobs(n=6)
    with pytest.raises(ConfigError, match=r"samples\.folds: expected at most 6"):
        out_of_fold.compute(inputs(x, y, folds=7))
