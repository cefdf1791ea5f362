"""What ranks share, as seen from one process that is told which of several it is."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from easy_training import images
from infprune import ranks
from infprune.data.augment import crop_flip
from infprune.data.loaders import batches, rows, shared_batches
from infprune.errors import ConfigError, InputError
from infprune.files import atomic_write
from infprune.parallel import synchronised, weight


@pytest.fixture
def as_rank(monkeypatch):
    """Be rank `rank` of `world`; nothing may be sent."""

    def be(rank, world):
        monkeypatch.setattr(ranks._here, "member", ranks._Membership(rank, world, None))
        monkeypatch.setattr(ranks._here, "leads", rank == 0)

    return be


def test_one_process_has_everything():
    x = torch.randn(3, 2)
    assert (ranks.rank(), ranks.world(), ranks.leads(), ranks.local_rank()) == (0, 1, True, 0)
    assert ranks.total(x) is ranks.joined(x) is ranks.agreed(x) is x
    assert ranks.totals(1.5, 2) == [1.5, 2]
    assert ranks.once(lambda: [0.5], 1) == [0.5]
    assert ranks.heaviest_first([1.0, 3.0]) == [0, 1]
    generator = iter([1])
    assert ranks.share(generator).batches is generator
    assert ranks.fail(3) == 3
    assert ranks.leads()
    ranks.alike("x", "a")
    ranks.finish()


def test_a_rank_is_alone_for_a_while(as_rank):
    as_rank(1, 3)
    with pytest.raises(InputError), ranks.apart():  # noqa: PT012 - it must end with the error
        assert (ranks.rank(), ranks.world(), ranks.leads()) == (0, 1, False)
        assert ranks.totals(2.0) == [2.0]
        raise InputError("no")
    assert (ranks.rank(), ranks.world()) == (1, 3)


def test_too_few_batches_to_share_are_visited_by_all(as_rank):
    as_rank(1, 3)
    assert_close(ranks.visited(batches(images(20), 10), lambda x, _: x), images(20).x)


@pytest.mark.parametrize(("samples", "size", "world"), [(60, 13, 2), (60, 13, 3), (60, 60, 2), (7, 2, 4)])
def test_shares_are_the_batches_in_order(as_rank, samples, size, world):
    whole = batches(images(samples), size)
    truth, found, seen = list(whole), [], 0
    for rank in range(world):
        as_rank(rank, world)
        share = ranks.share(whole)
        assert (share.first, share.count) == (len(found), len(truth))
        assert share.skipped == seen
        assert len(share.batches) == len(list(share.batches))
        for x, y in share.batches:
            found.append((x, y))
            seen += len(y)
        as_list = ranks.share(truth)
        assert (as_list.first, as_list.before, as_list.count) == (share.first, share.before, share.count)
        assert len(as_list.batches) == len(share.batches)
    assert len(found) == len(truth)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(found, truth, strict=True))


def test_too_few_batches(as_rank):
    as_rank(0, 4)
    assert len(ranks.share(batches(images(), 20)).batches) == 0
    with pytest.raises(ConfigError, match="4 ranks need at least 4 batches of samples, there are 3"):
        ranks.share(batches(images(), 20), least=1)


@pytest.mark.parametrize(("samples", "size", "world"), [(60, 16, 2), (61, 16, 3), (50, 24, 2), (51, 24, 2)])
def test_rows_are_the_shuffled_batches(as_rank, samples, size, world):
    data = images(samples)
    truth = list(batches(data, size, shuffle_seed=5))
    shares = []
    for rank in range(world):
        as_rank(rank, world)
        shares.append(list(shared_batches(data, size, 5, "cpu")))
    for i, (x, _) in enumerate(truth):
        parts = [share[i][0] for share in shares]
        if len(x) < 2 * world:
            assert all(torch.equal(part, x) for part in parts)
        else:
            assert min(map(len, parts)) >= 2
            assert torch.equal(torch.cat(parts), x)


def test_weights_make_the_mean_over_samples(as_rank):
    losses = torch.randn(13)
    parts = []
    for rank in range(3):
        as_rank(rank, 3)
        mine = rows(13)
        parts.append(mine.of(losses).mean() * weight(mine))
    assert_close(torch.stack(parts).mean(), losses.mean())


def test_crops_of_rows_are_rows_of_crops(as_rank):
    x = torch.randn(10, 1, 6, 6)
    torch.manual_seed(3)
    truth = crop_flip(x, 2)
    assert not torch.equal(truth, x)
    found = []
    for rank in range(3):
        as_rank(rank, 3)
        mine = rows(10)
        torch.manual_seed(3)
        found.append(crop_flip(mine.of(x), 2, rows=mine))
    assert torch.equal(torch.cat(found), truth)


def test_tasks_are_shared_by_their_costs(as_rank):
    costs, taken = [1.0, 9.0, 2.0, 4.0, 3.0, 9.0, 0.0], []
    for rank in range(2):
        as_rank(rank, 2)
        taken.append(ranks.heaviest_first(costs))
    assert sorted(taken[0] + taken[1]) == list(range(7))
    loads = [sum(costs[i] for i in mine) for mine in taken]
    assert loads == [14.0, 14.0]


def test_other_ranks_write_nothing(as_rank, tmp_path):
    as_rank(1, 2)
    atomic_write(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []
    as_rank(0, 2)
    atomic_write(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


NORMS = {
    "plain": nn.BatchNorm2d(3),
    "cumulative": nn.BatchNorm2d(3, momentum=None),
    "without weights": nn.BatchNorm2d(3, affine=False),
    "without statistics": nn.BatchNorm2d(3, track_running_stats=False),
    "wide eps": nn.BatchNorm2d(3, eps=0.5, momentum=0.3),
}


@pytest.mark.parametrize("name", NORMS)
def test_synchronised_batch_norm_is_batch_norm(name):
    one, other = nn.Sequential(NORMS[name]), nn.Sequential(nn.BatchNorm2d(3))
    with torch.no_grad():
        for p in one.parameters():
            p.copy_(torch.randn(3))
    other[0] = type(one[0])(3, one[0].eps, one[0].momentum, one[0].affine, one[0].track_running_stats)
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        x = torch.randn(5, 3, 4, 4) * 3 + 1
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        slope = torch.randn(5, 3, 4, 4)
        one(a).backward(slope)
        with synchronised(other):
            other(b).backward(slope)
        assert "forward" not in vars(other[0])
        assert_close(a.grad, b.grad)
        for p, q in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert_close(p, q)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert_close(p.grad, q.grad)
    one.eval()
    other.eval()
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with synchronised(other):
        assert_close(other(x), one(x))
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())


def test_ends_of_other_ranks_are_told_from_faults(as_rank):
    closed = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242")
    assert not ranks.lost(closed)  # in one process nobody is lost
    as_rank(0, 2)
    assert ranks.lost(closed)
    assert not ranks.lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ranks.lost(InputError("Connection closed by peer"))


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"WORLD_SIZE": "4"}, False),
        ({"RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": "x"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
    ],
)
def test_started_as_one_of_several(monkeypatch, environment, several):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.asked() is several
