"""Files that name training samples: subset files and bare indices."""

import pytest
import torch

from infprune.data.dataset import ArrayDataset
from infprune.data.index_file import named
from infprune.data.subset_file import Subset, fingerprint, write_subset
from infprune.errors import InputError

DATA = ArrayDataset(torch.arange(20.0)[:, None], torch.arange(20) % 2)


def read(tmp_path, text):
    path = tmp_path / "f.txt"
    path.write_text(text, encoding="utf-8")
    return named(path, DATA).tolist()


@pytest.mark.parametrize("text", ["7\n3\n19\n", "[3, 7, 19]", "19 7, 3 7", " [19,\n3,7] ", "\ufeff3,7,19,"])
def test_bare_indices(tmp_path, text):
    assert read(tmp_path, text) == [3, 7, 19]


def test_a_subset_file_must_be_of_these_data(tmp_path):
    path = tmp_path / "s.json"
    write_subset(path, Subset(torch.tensor([2, 5]), 20, fingerprint(DATA)))
    assert named(path, DATA).tolist() == [2, 5]
    write_subset(path, Subset(torch.tensor([2, 5]), 20, "ab"))
    with pytest.raises(InputError, match="of another data set"):
        named(path, DATA)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no sample; expected a subset file, or indices"),
        ("[]", "names no sample"),
        ("3 20", r"expected indices in 0\.\.19, got 20"),
        ("-1", r"expected indices in 0\.\.19, got -1"),
        ("1" * 5000, r"expected indices in 0\.\.19, got 1{40}$"),
        ("3 4.5", "expected a subset file, or indices .* got '4.5'"),
        ("[1, [2]]", r"got '\[2\]'"),
        ("index\n3", "got 'index'"),
        ("\u0663", "expected a subset file, or indices"),
        ("{}", "expected a subset file, got another kind of JSON"),
    ],
)
def test_what_is_no_list_says_what_it_should_be(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        read(tmp_path, text)


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file; give a subset file, or indices"):
        named(tmp_path / "none", DATA)
    for path in (tmp_path, "/dev/zero"):
        link = tmp_path / f"to-{str(path)[-4:]}"
        link.symlink_to(path)
        with pytest.raises(InputError, match="not a file"):
            named(link, DATA)
    (tmp_path / "b").write_bytes(b"\xff\xfe1")
    with pytest.raises(InputError, match="cannot read"):
        named(tmp_path / "b", DATA)
