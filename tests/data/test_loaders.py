import pytest
import torch
from torch.utils.data import Subset

from infprune.data.dataset import ArrayDataset, Part, gather
from infprune.data.loaders import batches, subset
from infprune.errors import ConfigError


class Slow:
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index % 3


def arrays():
    return ArrayDataset(torch.arange(10.0).view(10, 1), torch.arange(10) % 3)


FORMS = {
    "arrays": arrays(),
    "foreign": Slow(),
    "part": Part(arrays(), torch.arange(10)),
    "foreign part": Part(Slow(), torch.arange(10)),
    "torch subset": Subset(Slow(), range(10)),
    "torch subset of arrays": Subset(arrays(), range(10)),
}


def order(loader):
    return [x.flatten().tolist() for x, _ in loader]


@pytest.mark.parametrize("form", FORMS)
def test_in_order(form):
    loader = batches(FORMS[form], 4)
    assert len(loader) == 3
    assert order(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for x, y in loader:
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert torch.equal(y, x.flatten().long() % 3)


@pytest.mark.parametrize("form", FORMS)
def test_shuffled_by_its_seed(form):
    first, again, other = (batches(FORMS[form], 4, shuffle_seed=seed) for seed in (0, 0, 1))
    epochs = [order(first), order(first)]
    assert [order(again), order(again)] == epochs
    assert epochs[0] != epochs[1]  # every pass has its own order
    assert order(other) != epochs[0]
    assert sorted(x for batch in epochs[0] for x in batch) == list(range(10))


def test_worker_processes_give_the_same_batches():
    assert order(batches(Slow(), 3, shuffle_seed=5, workers=1)) == order(batches(Slow(), 3, shuffle_seed=5))


def test_global_random_state_is_untouched():
    state = torch.get_rng_state()
    list(batches(arrays(), 3))
    list(batches(arrays(), 3, shuffle_seed=1))
    subset(arrays(), 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_device():
    assert all(x.is_meta and y.is_meta for x, y in batches(arrays(), 4, device="meta"))


@pytest.mark.parametrize("form", FORMS)
def test_subset(form):
    chosen = order(batches(subset(FORMS[form], 6, seed=3), 6))[0]
    assert chosen == order(batches(subset(FORMS[form], 6, seed=3), 6))[0]
    assert chosen != order(batches(subset(FORMS[form], 6, seed=4), 6))[0]
    assert len(set(chosen)) == 6


def test_subset_of_all():
    data = arrays()
    for n in (10, 99):
        x, _ = gather(subset(data, n, seed=0), range(10))
        y, _ = gather(subset(data, n, seed=1), range(10))
        assert not torch.equal(x, y)  # the order is the seed's
        assert torch.equal(x.flatten(1).sum(1).sort().values, y.flatten(1).sum(1).sort().values)


def test_errors():
    with pytest.raises(ConfigError, match=r"data\.batch_size must be at least 1, got 0"):
        batches(arrays(), 0)
    with pytest.raises(ConfigError, match=r"expected at least 1 sample, got 0"):
        subset(arrays(), 0, seed=0)


def test_several_inputs_are_a_tuple_on_the_device():
    x = torch.arange(10.0).view(10, 1)
    loader = batches(ArrayDataset((x.long(), x), torch.arange(10) % 3), 4, device="meta")
    for inputs, y in loader:
        assert isinstance(inputs, tuple)
        assert [t.dtype for t in inputs] == [torch.int64, torch.float32]
        assert all(t.is_meta for t in (*inputs, y))
