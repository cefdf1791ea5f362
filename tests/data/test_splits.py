import sys

import pytest
import torch

from infprune.data import DATASETS
from infprune.data.dataset import ArrayDataset, DataRequest, Source, gather, labels
from infprune.data.splits import CHUNK, PROBE, load
from infprune.errors import ConfigError, InputError

FACTORY = """
import torch
from infprune.data.dataset import ArrayDataset, Source

def make(n=40):
    x = torch.arange(float(n)).view(n, 1)
    return Source(ArrayDataset(x, torch.arange(n) % 2), ArrayDataset(x, torch.arange(n) % 2), 2, (1,))
def text(): return "data"
def broken(): raise OSError("disk gone")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "infprune_test_data.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "infprune_test_data"
    sys.modules.pop("infprune_test_data", None)


def splits(name=None, factory=None, *, args=None, validation=0.1, seed=0):
    return load(name, factory, None, download=False, args=args or {}, validation=validation, seed=seed)


def arrays(n=20, **change):
    parts = {"x": torch.zeros(n, 3), "y": torch.arange(n) % 2, **change}
    return ArrayDataset(parts["x"], parts["y"])


def fake(monkeypatch, train, test, classes=2, shape=(3,), features=None):
    monkeypatch.setitem(DATASETS, "digits", lambda _: Source(train, test, classes, shape, features))


def test_digits_are_partitioned_and_stratified():
    data = splits("digits")
    whole = DATASETS["digits"](DataRequest("digits", None, False, {}))
    assert (len(data.train), len(data.validation), len(data.test)) == (1294, 144, 359)
    assert (data.classes, data.input_shape) == (10, (1, 8, 8))
    assert torch.equal(data.test.x, whole.test.x)
    indices = torch.cat([data.train.indices, data.validation.indices])
    assert torch.equal(indices.sort().values, torch.arange(1438))
    assert torch.bincount(labels(data.validation), minlength=10).sub(14.4).abs().max() <= 1
    x, y = gather(data.validation, [0, 1])
    assert torch.equal(x, whole.train.x[data.validation.indices[:2]])
    assert torch.equal(y, whole.train.y[data.validation.indices[:2]])


def test_seed_moves_validation_but_not_test():
    one, same, other = (splits("digits", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.validation.indices, same.validation.indices)
    assert not torch.equal(one.validation.indices, other.validation.indices)
    assert torch.equal(one.test.x, other.test.x)


def test_factory(module):
    data = splits(factory=f"{module}:make", args={"n": 10}, validation=0.3)
    assert (len(data.train), len(data.validation), len(data.test), data.input_shape) == (7, 3, 10, (1,))


class Foreign:
    """Samples only one by one; sample ``bad`` is given instead of a good one."""

    def __init__(self, bad=None, at=5):
        self.bad, self.at = bad, at

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if self.bad is not None and index == self.at:
            return self.bad
        return torch.full((3,), float(index)), index % 2


def test_foreign_dataset(monkeypatch):
    fake(monkeypatch, Foreign(), Foreign())
    data = splits("digits", validation=0.25)
    assert (len(data.train), len(data.validation)) == (15, 5)
    assert gather(data.validation, [0])[0][0, 0] == data.validation.indices[0]


@pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, float("nan")])
def test_share_must_lie_inside(validation):
    with pytest.raises(ConfigError, match=r"data\.validation must lie between 0 and 1"):
        splits("digits", validation=validation)


@pytest.mark.parametrize(
    ("name", "factory", "args", "match"),
    [
        (None, None, {}, "got neither"),
        ("digits", "a:b", {}, "got both"),
        ("digit", None, {}, r"unknown data\.name 'digit'; did you mean digits\?"),
        ("zzz", None, {}, r"choose one of digits, breast_cancer, mnist, .*data\.factory"),
        ("digits", None, {"seed": 1}, "unknown names"),
        (None, "nocolon", {}, r"data\.factory must read pkg\.mod:function"),
        (None, "infprune_test_data:make", {"m": 1}, r"data\.args \['m'\] do not fit infprune_test_data:make"),
    ],
)
@pytest.mark.usefixtures("module")
def test_config_errors(name, factory, args, match):
    with pytest.raises(ConfigError, match=match):
        splits(name, factory, args=args)


@pytest.mark.parametrize(("function", "match"), [("text", "must return .*Source, got str"), ("broken", "disk gone")])
def test_failing_factory(module, function, match):
    with pytest.raises(InputError, match=match):
        splits(factory=f"{module}:{function}")


def _spoiled(value, index, n=20):
    x = torch.zeros(n, 3)
    x[index, 1] = value
    return arrays(n, x=x)


BAD = {
    "empty": (arrays(0), "part is empty"),
    "high label": (arrays(y=torch.tensor([0] * 7 + [2] * 13)), r"sample 7 has label 2, expected an integer in 0\.\.1"),
    "negative label": (arrays(y=torch.tensor([-1] + [1] * 19)), "sample 0 has label -1"),
    "nan": (_spoiled(float("nan"), 3), "sample 3 holds NaN or inf"),
    "inf, late": (_spoiled(float("-inf"), CHUNK + 5, CHUNK + 9), f"sample {CHUNK + 5} holds NaN or inf"),
    "shape": (arrays(x=torch.zeros(20, 4)), r"samples are \(4,\) torch.float32, expected \(3,\)"),
    "dtype": (Foreign((torch.zeros(3).double(), 0), at=0), r"cannot be read|torch\.float64"),
    "foreign nan": (Foreign((torch.tensor([0, 0, float("nan")]), 0)), "sample 5 holds NaN"),
    "foreign label": (Foreign((torch.zeros(3), 9)), "sample 5 has label 9"),
    "foreign float label": (Foreign((torch.zeros(3), 0.5), at=0), "sample 0 has label 0.0|has label 0.5"),
    "ragged": (Foreign((torch.zeros(4), 0)), "cannot be read as"),
    "no pair": (Foreign(torch.zeros(3)), "cannot be read as"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("case", BAD)
def test_invalid_data(monkeypatch, case, part):
    bad, match = BAD[case]
    fake(monkeypatch, *((bad, arrays()) if part == "train" else (arrays(), bad)))
    with pytest.raises(InputError, match=rf"(?s){part} .*({match})") as caught:
        splits("digits")
    assert "\n" not in str(caught.value)


def test_names_of_features_are_carried(monkeypatch):
    fake(monkeypatch, arrays(), arrays(), features=("age", "height", "weight"))
    assert splits("digits").features == ("age", "height", "weight")
    fake(monkeypatch, arrays(), arrays())
    assert splits("digits").features is None


@pytest.mark.parametrize(
    ("features", "shape", "text"),
    [
        (("age", "height"), (3,), r"per column of samples \(3,\), got 2 names; correct"),
        (["age", "height", "weight"], (3,), "got list; correct"),
        (("age", "height", "weight"), (3, 1), r"per column of samples \(3, 1\), got 3 names; correct"),
    ],
)
def test_names_of_features_must_fit(monkeypatch, features, shape, text):
    data = arrays(x=torch.zeros(20, *shape))
    fake(monkeypatch, data, data, shape=shape, features=features)
    with pytest.raises(InputError, match=text):
        splits("digits")


def test_one_sample_cannot_be_divided(monkeypatch):
    fake(monkeypatch, arrays(1), arrays())
    with pytest.raises(InputError, match="train part has 1 sample, expected 2 or more"):
        splits("digits")


# --- several inputs


def two(n=20, tokens=None, values=None):
    """((tokens, values), y); a foreign dataset, because an ArrayDataset changes dtypes."""
    tokens = torch.zeros(n, 4, dtype=torch.int64) if tokens is None else tokens
    values = torch.zeros(n, 3) if values is None else values
    return [((tokens[i], values[i]), i % 2) for i in range(n)]


def test_two_inputs(monkeypatch):
    fake(monkeypatch, two(), two(), shape=((4,), (3,)))
    data = splits("digits")
    assert data.input_shape == ((4,), (3,))
    (tokens, values), y = gather(data.validation, [0, 1])
    assert (tokens.dtype, values.dtype, y.dtype) == (torch.int64, torch.float32, torch.int64)


def test_token_ids_alone(monkeypatch):
    samples = [(torch.tensor([1, 2, i]), i % 2) for i in range(20)]
    fake(monkeypatch, samples, samples)
    assert gather(splits("digits").train, [0])[0].dtype == torch.int64


SPOILED = torch.zeros(20, 3)
SPOILED[6, 2] = float("nan")
BAD_PAIRS = {
    "shape": (two(values=torch.zeros(20, 5)), r"samples are \(\(4,\), \(5,\)\) .*, expected \(\(4,\), \(3,\)\)"),
    "one": (arrays(), r"samples are \(3,\) torch.float32, expected \(\(4,\), \(3,\)\)"),
    "int32": (two(tokens=torch.zeros(20, 4, dtype=torch.int32)), "torch.int32 and torch.float32, expected"),
    "float64": (two(values=torch.zeros(20, 3, dtype=torch.float64)), "torch.int64 and torch.float64, expected"),
    "nan": (two(values=SPOILED), "sample 6 holds NaN or inf"),
    "mapping": ([({"tokens": torch.zeros(4)}, 0)] * 20, r"cannot be read as .*: got dict"),
    "nested": ([((torch.zeros(4), (torch.zeros(3), torch.zeros(3))), 0)] * 20, r"cannot be read as .*: got list"),
    "label": ([((torch.zeros(4, dtype=torch.int64), torch.zeros(3)), 7)] * 20, "sample 0 has label 7"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_invalid_inputs_among_several(monkeypatch, case):
    bad, match = BAD_PAIRS[case]
    fake(monkeypatch, bad, two(), shape=((4,), (3,)))
    with pytest.raises(InputError, match=f"train .*({match})") as caught:
        splits("digits")
    assert "\n" not in str(caught.value)


# --- samples that are bad where the first look does not reach


class Late(Foreign):
    """Good samples up to `at`, which is beyond the probe."""

    def __len__(self):
        return PROBE + 50

    def __getitem__(self, index):
        if index == self.at and isinstance(self.bad, BaseException):
            raise self.bad
        return super().__getitem__(index)


LATE = {
    "raises": (KeyError("no such\nsample"), "cannot be read as .*KeyError"),
    "exits": (SystemExit(1), "cannot be read as .*SystemExit"),
    "label": ((torch.zeros(3), 7), f"sample {PROBE + 9} has label 7, expected an integer in 0..1"),
    "nan": ((torch.full((3,), float("nan")), 0), f"sample {PROBE + 9} holds NaN or inf"),
    "shape": ((torch.zeros(4), 0), "cannot be read as"),
    "text": (("x", 0), "cannot be read as"),
}


@pytest.mark.parametrize("case", LATE)
def test_late_samples_are_checked_when_they_are_read(monkeypatch, case):
    bad, match = LATE[case]
    fake(monkeypatch, arrays(), Late(bad, PROBE + 9))
    test = splits("digits").test
    assert len(gather(test, range(PROBE))[1]) == PROBE
    assert test[3][1] == 1
    with pytest.raises(InputError, match=f"(?s)test .*({match})") as caught:
        gather(test, range(PROBE, PROBE + 50))
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_in_a_dataset_is_not_the_dataset_s_fault(monkeypatch):
    fake(monkeypatch, arrays(), Late(MemoryError(), PROBE + 9))
    with pytest.raises(MemoryError):
        gather(splits("digits").test, [PROBE + 9])
