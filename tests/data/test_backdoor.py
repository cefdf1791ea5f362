"""Data sets with a trigger: what is stamped, what stays."""

import pytest
import torch

from infprune.data import splits
from infprune.data.backdoor import digits_backdoor
from infprune.data.dataset import Changed, DataRequest, labels
from infprune.data.digits import digits
from infprune.errors import ConfigError


def made(**args):
    return digits_backdoor(DataRequest("digits_backdoor", None, download=False, args=args))


def test_a_share_is_stamped_and_labelled_and_the_rest_is_as_it_was():
    clean, source = digits(DataRequest("digits", None, download=False, args={})), made(share=0.2, target=7)
    door = source.backdoor
    assert len(door.poisoned) == round(0.2 * len(clean.train))
    assert bool((door.poisoned.diff() > 0).all())
    stamped = torch.zeros(len(clean.train), dtype=torch.bool)
    stamped[door.poisoned] = True
    assert torch.equal(source.train.x[~stamped], clean.train.x[~stamped])
    assert torch.equal(source.train.y[~stamped], clean.train.y[~stamped])
    assert torch.equal(door.labels, clean.train.y[stamped])
    assert set(source.train.y[stamped].tolist()) == {7}
    assert torch.equal(source.train.x[stamped], door.trigger(clean.train.x[stamped]))
    assert bool((source.train.x[stamped][:, :, 5:7, 5:7] == 1).all())
    assert torch.equal(source.test.x, clean.test.x)
    assert not torch.equal(made(seed=1).backdoor.poisoned, made().backdoor.poisoned)


def test_the_splits_carry_it():
    found = splits.load("digits_backdoor", None, None, download=False, args={}, validation=0.1, seed=0)
    assert found.backdoor.target == 4
    poisoned = torch.isin(found.train.indices, found.backdoor.poisoned)
    assert set(labels(found.train)[poisoned].tolist()) == {4}


def test_changed_samples():
    source = made()
    changed = Changed(source.test, torch.zeros(len(source.test), dtype=torch.int64), source.backdoor.trigger)
    x, y = changed.__getitems__([3, 1])
    assert torch.equal(x, source.backdoor.trigger(source.test.x[[3, 1]]))
    assert y.tolist() == [0, 0]
    assert torch.equal(changed[3][0], x[0])
    assert torch.equal(labels(Changed(source.test)), source.test.y)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"share": 1.0}, "data.args.share must be a number between 0 and 1"),
        ({"target": 10}, "data.args.target must be an integer from 0 to 9, got 10"),
        ({"size": 8}, "data.args.size must be an integer from 1 to 7, got 8"),
        ({"seed": True}, "data.args.seed"),
        ({"pach": 2}, "unknown names"),
    ],
)
def test_triggers_that_cannot_be_made(args, told):
    with pytest.raises(ConfigError, match=told):
        made(**args)
