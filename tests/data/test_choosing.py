"""Which samples a strategy keeps."""

import pytest
import torch

from infprune.data.choosing import chosen, shares
from infprune.errors import ConfigError

SCORES = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 9.0, 8.0, 7.0, 6.0])
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("strategy", "balance", "kept"),
    [
        ("hard", "none", [0, 6, 7, 8, 9]),
        ("easy", "none", [1, 2, 3, 4, 5]),
        ("hard", "class", [0, 2, 4, 6, 7]),
        ("easy", "class", [1, 3, 5, 8, 9]),
        ("middle", "none", [0, 2, 3, 4, 9]),
    ],
)
def test_strategies(strategy, balance, kept):
    assert chosen(SCORES, LABELS, 0.5, strategy, balance).tolist() == kept


@pytest.mark.parametrize("strategy", ["hard", "easy", "middle"])
@pytest.mark.parametrize("balance", ["class", "none"])
def test_a_larger_share_holds_a_smaller_one(strategy, balance):
    smaller = set()
    for keep in (0.2, 0.3, 0.5, 0.8, 1.0):
        kept = set(chosen(SCORES, LABELS, keep, strategy, balance, seed=3).tolist())
        assert smaller <= kept
        assert len(kept) == round(keep * 10)
        smaller = kept


def test_equal_scores_are_drawn():
    ties, same = torch.zeros(1000), torch.zeros(1000, dtype=torch.int64)
    one, other = (chosen(ties, same, 0.5, "hard", "none", seed) for seed in (0, 1))
    assert 400 < one.float().mean() < 600
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("sizes", "count", "found"),
    [
        ([6, 4], 5, [3, 2]),
        ([5, 5, 5], 7, [3, 2, 2]),
        ([97, 1, 1, 1], 10, [7, 1, 1, 1]),
        ([3, 3], 6, [3, 3]),
    ],
)
def test_shares_add_up_and_leave_no_class_out(sizes, count, found):
    assert shares(sizes, count) == found


def test_too_few_are_refused():
    with pytest.raises(ConfigError, match="too few for 2 classes"):
        chosen(SCORES, LABELS, 0.1, "hard", "class")
    with pytest.raises(ConfigError, match="too few for one sample"):
        chosen(SCORES, LABELS, 0.01, "hard", "none")
