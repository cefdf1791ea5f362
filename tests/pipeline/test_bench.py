"""What pruning commands work with: samples that stand for the whole split, whatever order the data lie in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from infprune.config import load
from infprune.coupling.groups import Coupling
from infprune.data.dataset import ArrayDataset, Splits
from infprune.pipeline.bench import Bench
from infprune.pipeline.session import Session

CLASSES = 10
Y = torch.arange(CLASSES).repeat_interleave(60)  # class by class, as an image folder is read


def trial_samples(count, seed=0):
    """Their labels, which are the inputs too."""
    part = ArrayDataset(Y[:, None].float(), Y)
    settings = load("digits", [f"score.trial_samples={count}", f"run.seed={seed}"])
    session = Session(settings, Splits(part, part, part, CLASSES, (1,)), torch.device("cpu"), Path())
    return Bench(session, nn.Identity(), Coupling((), (), {}), ()).trial_samples[:, 0].long()


def test_trial_samples_are_of_every_class_however_the_data_is_sorted():
    found = torch.bincount(trial_samples(200), minlength=CLASSES)
    assert int(found.sum()) == 200
    assert int(found.min()) >= 10


def test_trial_samples_depend_on_the_seed_alone():
    assert torch.equal(trial_samples(50), trial_samples(50))
    assert not torch.equal(trial_samples(50), trial_samples(50, seed=1))


@pytest.mark.parametrize("count", [600, 10_000])
def test_all_there_are_come_in_their_order(count):
    assert torch.equal(trial_samples(count), Y)
