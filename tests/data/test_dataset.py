import pytest
import torch

from infprune.data.dataset import ArrayDataset, DataRequest, Part, gather, labels
from infprune.errors import ConfigError, InputError


class Pairs:
    """A foreign map-style dataset: no ``__getitems__``, no labels apart."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index % 3


def arrays():
    return ArrayDataset(torch.arange(20).view(10, 2), torch.arange(10, dtype=torch.int32) % 3)


def test_array_dataset_converts_and_indexes():
    data = arrays()
    x, y = data[3]
    assert (x.dtype, x.tolist(), y, type(y)) == (torch.float32, [6.0, 7.0], 0, int)
    x, y = data.__getitems__([4, 1])
    assert (x.tolist(), y.tolist(), y.dtype) == ([[8.0, 9.0], [2.0, 3.0]], [1, 1], torch.int64)


@pytest.mark.parametrize("y", [torch.zeros(9), torch.zeros(10, 1)])
def test_array_dataset_needs_one_label_per_sample(y):
    with pytest.raises(InputError, match=r"one label per sample, got x \(10, 2\)"):
        ArrayDataset(torch.zeros(10, 2), y)


@pytest.mark.parametrize("base", [arrays(), Pairs()])
def test_part_of_a_part(base):
    part = Part(Part(base, torch.tensor([9, 4, 5, 0])), torch.tensor([2, 0]))
    assert len(part) == 2
    assert part[0][1] == base[5][1]
    x, y = gather(part, [1, 0])
    assert torch.equal(x, torch.stack([base[9][0], base[5][0]]))
    assert y.tolist() == [base[9][1], base[5][1]]


def test_gather_of_a_foreign_dataset_stacks_samples():
    x, y = gather(Pairs(), [3, 4])
    assert (x.tolist(), y.tolist()) == ([[3.0, 3.0], [4.0, 4.0]], [0, 1])


def test_labels():
    assert labels(Part(arrays(), torch.tensor([4, 2]))).tolist() == [1, 2]
    assert labels(Part(Pairs(), torch.tensor([4, 2]))) is None
    foreign = Pairs()
    foreign.y = torch.zeros(3)  # of something else than the samples
    assert labels(foreign) is None


def request(root=None, *, download=False, **args):
    return DataRequest("mnist", root, download, args)


def test_folder_prefers_the_explicit_root(tmp_path, monkeypatch):
    monkeypatch.setenv("INFPRUNE_DATA", str(tmp_path / "elsewhere"))
    assert request(tmp_path).folder() == tmp_path
    monkeypatch.setenv("INFPRUNE_DATA", str(tmp_path))
    assert request().folder() == tmp_path
    assert request(tmp_path / "new", download=True).folder() == tmp_path / "new"


def test_folder_errors(tmp_path, monkeypatch):
    monkeypatch.delenv("INFPRUNE_DATA", raising=False)
    with pytest.raises(InputError, match=r"dataset mnist needs a folder; set data\.root or the variable INFPRUNE_DATA"):
        request().folder()
    with pytest.raises(InputError, match=r"absent not found; set data\.root"):
        request(tmp_path / "absent").folder()


def test_options():
    assert request(size=3).options(size=None, cache=True) == {"size": 3, "cache": True}
    with pytest.raises(ConfigError, match=r"data\.args of mnist has unknown names \['siz'\]; it takes size, cache"):
        request(siz=3).options(size=None, cache=True)
    with pytest.raises(ConfigError, match="it takes none"):
        request(siz=3).options()


class Several(Pairs):
    """A foreign dataset of ((tokens, values), y)."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (torch.tensor([index, 1]), x), y


@pytest.mark.parametrize(
    "data",
    [
        Several(),
        ArrayDataset((torch.tensor([[i, 1] for i in range(10)]), arrays().x[:, :1].expand(10, 2) / 2), arrays().y),
    ],
    ids=["foreign", "arrays"],
)
def test_several_inputs_become_a_tuple_of_batches(data):
    for samples, at in ((data, [3, 4]), (Part(data, torch.tensor([9, 4, 3])), [2, 1])):
        (tokens, values), y = gather(samples, at)
        assert (tokens.tolist(), tokens.dtype) == ([[3, 1], [4, 1]], torch.int64)
        assert (values.tolist(), values.dtype) == ([[3.0, 3.0], [4.0, 4.0]], torch.float32)
        assert y.tolist() == [0, 1]
    x, y = data[4]
    assert ([t.tolist() for t in x], y) == ([[4, 1], [4.0, 4.0]], 1)


def test_array_dataset_of_several_inputs():
    data = ArrayDataset(
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 2, 2, dtype=torch.float64)), torch.zeros(3)
    )
    assert data.input_shape == ((4,), (2, 2))
    assert [t.dtype for t in data.x] == [torch.int64, torch.float32]
    assert arrays().input_shape == (2,)
    with pytest.raises(InputError, match=r"one label per sample, got x \(3, 1\) and \(2, 1\) and y \(3,\)"):
        ArrayDataset((torch.zeros(3, 1), torch.zeros(2, 1)), torch.zeros(3))
