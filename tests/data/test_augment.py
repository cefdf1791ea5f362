import pytest
import torch
from torch.nn import functional as F

from infprune.data.augment import AUGMENTATIONS, crop, crop_flip
from infprune.errors import ConfigError


def test_crop_flip_shifts_and_mirrors_every_image():
    x = torch.rand(40, 2, 5, 7) + 0.5
    torch.manual_seed(0)
    out = crop_flip(x, padding=2)
    assert out.shape == x.shape
    seen = set()
    for image, result in zip(x, out, strict=True):
        padded = F.pad(image, (2,) * 4)
        windows = {(dy, dx): padded[:, dy : dy + 5, dx : dx + 7] for dy in range(5) for dx in range(5)}
        plain = [(*shift, False) for shift, window in windows.items() if torch.equal(result, window)]
        mirrored = [(*shift, True) for shift, window in windows.items() if torch.equal(result, window.flip(2))]
        assert len(plain + mirrored) == 1
        seen.update(plain + mirrored)
    assert {dy for dy, _, _ in seen} == {dx for _, dx, _ in seen} == set(range(5))
    assert 10 < sum(flag for *_, flag in seen) < len(seen) - 5


def test_crop_shifts_with_the_edge_repeated_and_mirrors_nothing():
    x = torch.rand(40, 2, 5, 7) + 0.5
    torch.manual_seed(0)
    out, seen = crop(x), set()
    for image, result in zip(x, out, strict=True):
        padded = F.pad(image, (2,) * 4, mode="replicate")
        shifts = [(dy, dx) for dy in range(5) for dx in range(5)]
        (found,) = [(dy, dx) for dy, dx in shifts if torch.equal(result, padded[:, dy : dy + 5, dx : dx + 7])]
        seen.add(found)
    assert {dy for dy, _ in seen} == {dx for _, dx in seen} == set(range(5))
    assert AUGMENTATIONS["crop"] is crop


def test_crop_flip_follows_the_global_seed_and_leaves_its_input():
    x = torch.rand(8, 1, 6, 6)
    before = x.clone()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(crop_flip(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(x, before)
    assert AUGMENTATIONS["none"](x) is x
    assert AUGMENTATIONS["crop-flip"] is crop_flip


@pytest.mark.parametrize(
    ("x", "text"),
    [(torch.rand(4, 5), r"\(5,\)"), ((torch.rand(4, 1, 6, 6), torch.rand(4, 2)), r"\(\(1, 6, 6\), \(2,\)\)")],
)
def test_crop_flip_needs_images(x, text):
    with pytest.raises(ConfigError, match=rf"needs images \(C, H, W\), got inputs of shape {text}; use none"):
        crop_flip(x)
