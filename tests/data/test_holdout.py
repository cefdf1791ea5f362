import pytest
import torch

from infprune.data.holdout import holdout


@pytest.mark.parametrize("seed", [0, 7, 2**40, -1])
@pytest.mark.parametrize(("count", "share"), [(100, 0.2), (101, 0.33), (2, 0.9), (7, 0.01), (1000, 0.999)])
def test_partition_of_the_asked_size(count, share, seed):
    y = torch.arange(count) % 4
    kept, held = holdout(y, share, seed)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(count))
    assert len(held) == min(max(round(share * count), 1), count - 1)
    assert torch.equal(held, held.sort().values)


def test_every_class_gets_its_share():
    y = torch.tensor([0] * 500 + [1] * 50 + [2] * 10 + [3] * 4)
    _, held = holdout(y, 0.25, seed=3)
    for value, count in enumerate([500, 50, 10, 4]):
        assert abs((y[held] == value).sum().item() - 0.25 * count) <= 1


def test_seed_decides():
    y = torch.arange(200) % 5
    assert torch.equal(holdout(y, 0.5, 1)[1], holdout(y, 0.5, 1)[1])
    assert not torch.equal(holdout(y, 0.5, 1)[1], holdout(y, 0.5, 2)[1])
