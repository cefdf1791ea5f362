import threading

import pytest
import torch
from PIL import Image

from infprune.data import DATASETS
from infprune.data.ahead import ahead
from infprune.data.dataset import Changed, DataRequest, Part
from infprune.data.loaders import batches, shared_batches
from infprune.errors import InputError


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_all_items_in_their_order():
    assert list(ahead(range(50))) == list(range(50))
    assert list(ahead([])) == []
    assert not threads()


def test_the_next_is_made_while_one_is_used():
    made = threading.Event()

    def items():
        yield 1
        made.set()
        yield 2

    for number in ahead(items()):
        assert made.wait(60) or number == 2


def test_no_more_than_asked_for():
    drawn = []
    source = ahead((drawn.append(i) or i for i in range(100)), 3)
    assert [next(source), next(source)] == [0, 1]
    source.close()  # waits for the thread
    assert len(drawn) <= 2 + 3
    assert not threads()


def test_errors_come_at_their_place():
    def items():
        yield 1
        yield 2
        raise InputError("the third is damaged")

    source = ahead(items())
    assert [next(source), next(source)] == [1, 2]
    with pytest.raises(InputError, match="the third"):
        next(source)
    assert not threads()


def test_leaving_early_leaves_no_thread():
    for number in ahead(range(100)):
        if number == 3:
            break
    assert not threads()


# --- which data -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for i in range(12):
            (tmp_path / part / f"class{i % 3}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 4), (20 * i, i, 0)).save(tmp_path / part / f"class{i % 3}" / f"{i:02}.png")

    def load(*, cache):
        return DATASETS["image_folder"](DataRequest("image_folder", tmp_path, False, {"cache": cache})).train

    return load


def same(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_images_that_are_decoded_when_read_are_read_ahead(folder, monkeypatch):
    lazy, cached = folder(cache=False), folder(cache=True)
    names = []
    kind = type(lazy.files.decode)
    decode = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda *a: names.append(threading.current_thread().name) or decode(*a))
    some = torch.tensor([3, 1, 8, 2, 11])
    for of in (lambda d: d, lambda d: Part(d, some), lambda d: Changed(Part(d, some), change=lambda x: 2 * x)):
        for kinds in (lambda d: batches(d, 2), lambda d: batches(d, 2, 7), lambda d: shared_batches(d, 2, 7, "cpu")):
            names.clear()
            one, other = kinds(of(lazy)), kinds(of(cached))
            assert same(one, other)
            assert same(one, other)  # another pass, in another order where it is drawn
            assert len(names) == 2 * len(of(lazy))
            assert all(name.startswith("ahead") for name in names)
    assert not threads()


def test_samples_in_memory_start_no_thread(folder):
    for _ in batches(folder(cache=True), 2):
        assert not threads()


def test_an_image_that_is_damaged_later(folder, tmp_path):
    lazy = folder(cache=False)
    (tmp_path / "train" / "class1" / "10.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"image .*10\.png is unreadable"):
        list(batches(lazy, 2))
    assert not threads()
