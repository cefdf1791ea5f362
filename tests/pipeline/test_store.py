"""Measurements that outlive an interrupted run."""

import json

import pytest

from infprune.errors import ConfigError, InputError
from infprune.pipeline.store import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "measured.json"


def test_what_was_put_is_there_for_the_next_run(path):
    store = Store(path, "a", resume=False)
    assert store.get("0.3") is None
    store.put("0.3", [{"change": 0.1, "shift": [1.0, -1e-17]}])
    store.put("0.4", None)
    assert store.get("0.3")[0]["shift"] == [1.0, -1e-17]
    again = Store(path, "a", resume=True)
    assert again.get("0.3") == [{"change": 0.1, "shift": [1.0, -1e-17]}]
    again.put("0.5", 2)
    assert json.loads(path.read_text())["measurements"].keys() == {"0.3", "0.4", "0.5"}


def test_without_resuming_nothing_is_seen_and_nothing_is_lost_until_the_first_value(path):
    Store(path, "a", resume=False).put("x", 1)
    before = path.read_bytes()
    fresh = Store(path, "b", resume=False)
    assert fresh.get("x") is None
    assert path.read_bytes() == before
    fresh.put("y", 2)
    assert json.loads(path.read_text()) == {"identity": "b", "measurements": {"y": 2}}


def test_resuming_from_nothing_starts_from_nothing(path):
    store = Store(path, "a", resume=True)
    assert store.get("x") is None
    assert not path.exists()


def test_another_identity_is_refused_and_kept(path):
    Store(path, "a", resume=False).put("x", 1)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"other settings, weights, data or versions; give another run\.dir"):
        Store(path, "b", resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"\xff\xfe",
        b'{"identity": "a"}',
        b'{"measurements": {}}',
        b'{"identity": "a", "measurements": 3}',
    ],
)
def test_a_damaged_file_is_named(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot resume from .*measured\.json: it is damaged; delete it"):
        Store(path, "a", resume=True)
    assert path.read_bytes() == content


def test_a_folder_in_its_place_is_damage_too(path):
    path.mkdir(parents=True)
    with pytest.raises(InputError, match="damaged"):
        Store(path, "a", resume=True)


def test_values_of_another_form_nested_text_and_endless_files_are_damage(path):
    Store(path, "a", resume=False).put("x", "five")
    assert Store(path, "a", resume=True, valid=lambda v: isinstance(v, str)).get("x") == "five"
    with pytest.raises(InputError, match="it is damaged; delete it to start over"):
        Store(path, "a", resume=True, valid=lambda v: isinstance(v, int))
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="it is damaged"):
        Store(path, "a", resume=True)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="it is damaged"):
        Store(path, "a", resume=True)
