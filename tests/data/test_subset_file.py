"""Subset files: what was written is read, and what does not fit is told in one line."""

import json

import pytest
import torch
from torch.utils.data import Dataset

from infprune.data import splits
from infprune.data.dataset import ArrayDataset, Source
from infprune.data.guarded import Guarded
from infprune.data.subset_file import Subset, check_subset, fingerprint, outline, read_subset, write_subset
from infprune.errors import InputError


def _data(n=20, seed=0):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return ArrayDataset(x, torch.arange(n) % 2)


def _load(subset=None, seed=0):
    return splits.load("digits", None, None, download=False, args={}, validation=0.1, seed=seed, subset=subset)


@pytest.fixture
def file(tmp_path):
    data = _data()
    made = Subset(torch.tensor([7, 3, 11]), len(data), fingerprint(data), {"strategy": "hard"})
    write_subset(tmp_path / "s.json", made)
    return tmp_path / "s.json"


def test_what_was_written_is_read_in_ascending_order(file):
    found = read_subset(file)
    assert found.indices.tolist() == [3, 7, 11]
    assert (found.samples, found.made) == (20, {"strategy": "hard"})
    check_subset(found, _data(), file)


def test_another_data_set_is_refused(file):
    found = read_subset(file)
    with pytest.raises(InputError, match="another data set"):
        check_subset(found, _data(seed=1), file)
    with pytest.raises(InputError, match="of 20 training samples, got one of 21"):
        check_subset(found, _data(21), file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"indices": [3, 20]}, "expected indices in 0..19, got 20"),
        ({"indices": [-1]}, "got -1"),
        ({"indices": [3, 3]}, "ascending"),
        ({"indices": []}, "empty"),
        ({"indices": [0.5]}, "damaged at indices.0"),
        ({"samples": "many"}, "damaged at samples"),
        ({"kind": "scores"}, "expected a subset file"),
        ({"schema_version": 2}, "update infprune"),
    ],
)
def test_damage_is_named(file, change, told):
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=told):
        read_subset(file)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\udcff"])
def test_no_json_is_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"s\.json"):
        read_subset(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file; give a subset file"):
        read_subset(tmp_path / "none.json")


def test_a_subset_thins_the_training_part_and_leaves_validation_alone(tmp_path):
    whole = _load()
    base = whole.train.base
    held = whole.validation.indices[:3]  # chosen too, but the validation part keeps them
    chosen = torch.cat([whole.train.indices[::5], held])
    write_subset(tmp_path / "s.json", Subset(chosen, len(base), fingerprint(base)))
    thin = _load(tmp_path / "s.json")
    assert thin.train.indices.tolist() == whole.train.indices[::5].tolist()
    assert thin.validation.indices.tolist() == whole.validation.indices.tolist()


def test_nothing_left_is_refused(tmp_path):
    whole = _load()
    write_subset(
        tmp_path / "s.json", Subset(whole.validation.indices, len(whole.train.base), fingerprint(whole.train.base))
    )
    with pytest.raises(InputError, match="lie in the validation part"):
        _load(tmp_path / "s.json")


def test_the_fingerprint_sees_every_label_and_input():
    data = _data(5000)
    first = fingerprint(data)
    other = _data(5000)
    other.y[4999] = 1 - other.y[4999]
    assert fingerprint(_data(5000)) == first != fingerprint(other)
    other = _data(5000)
    other.x[4998, 2] += 1e-3
    assert fingerprint(other) != first


class Counted(Dataset):
    """A user's dataset that tells how often it was read."""

    def __init__(self, y):
        self.y, self.reads = torch.tensor(y), 0

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        self.reads += 1
        return torch.zeros(3), int(self.y[index])


def test_the_outline_reads_only_what_is_cheap():
    def guarded(y):
        return Guarded("train", data := Counted(y), Source(data, data, 3, (3,)))

    data = guarded([0, 1, 2])
    assert outline(data) == outline(guarded([0, 1, 2]))
    assert len({outline(guarded(y)) for y in ([0, 1, 2], [0, 1, 1], [0, 1, 2, 0], [0, 1])}) == 4
    assert data.base.reads == 0
    assert outline(_data(7)) == fingerprint(_data(7))


def test_files_of_the_first_version_are_read(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(
        '{"schema_version":1,"kind":"subset","samples":5,"data_sha256":"ab","made":{"keep":0.4},"indices":[1,3]}'
    )
    assert read_subset(path).indices.tolist() == [1, 3]
