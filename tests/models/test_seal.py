"""The checksum of a file: what it covers, and that it stays the one that files in the world hold."""

import pytest
import torch

from infprune.models.seal import seal

TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "none": torch.zeros(0),
    "mask": torch.tensor([True, False]),
}
MANIFEST = {"kind": "model", "kept": {"a": {"0": [1, 2]}}, "metrics": {"accuracy": 0.1}, "name": "λ"}
WRITTEN = "c4d3237f00acee040574d682d4d110054cf13a336d4efd9c5820f84fb4de67aa"


def test_it_is_what_it_was():
    """Files hold it: a change of how it is taken makes them all unreadable."""
    assert seal(TENSORS, MANIFEST) == WRITTEN


def test_order_and_the_seal_itself_do_not_matter():
    assert seal(dict(reversed(TENSORS.items())), dict(reversed(MANIFEST.items())) | {"sha256": "x"}) == WRITTEN


@pytest.mark.parametrize(
    "changed",
    [
        {"weight": TENSORS["weight"].view(3, 2)},
        {"weight": TENSORS["weight"].double()},
        {"weight": TENSORS["weight"].view(torch.int32)},
        {"weight": torch.arange(6, dtype=torch.float32).view(2, 3).nextafter(torch.tensor(9.0))},
        {"count": torch.tensor(4)},
        {"none": torch.zeros(0, 1)},
        {"mask": torch.tensor([True, True])},
        {"more": torch.zeros(0)},
    ],
)
def test_it_covers_names_shapes_dtypes_and_values(changed):
    assert seal(TENSORS | changed, MANIFEST) != WRITTEN


def test_it_covers_the_manifest():
    assert seal(TENSORS, MANIFEST | {"name": "x"}) != WRITTEN
    assert seal(TENSORS, MANIFEST | {"metrics": {"accuracy": 0.2}}) != WRITTEN


def test_transposed_memory_counts_as_what_it_holds():
    stored = torch.arange(6, dtype=torch.float32).view(2, 3).T.contiguous().T
    assert not stored.is_contiguous()
    assert seal(TENSORS | {"weight": stored}, MANIFEST) == WRITTEN
