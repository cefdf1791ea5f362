"""Files: whole or untouched."""

import errno
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from infprune import files
from infprune.errors import InputError
from infprune.files import atomic_write, atomic_writes, sha256


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.bin"
    path.write_bytes(b"old")
    return path


def fails(error):
    def call(*_args, **_kwargs):
        raise error

    return call


def test_bytes_and_text_arrive_whole_and_parents_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    atomic_write(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    atomic_write(path, "λ\r\n")
    assert path.read_bytes() == b"\xce\xbb\r\n"
    assert list(path.parent.iterdir()) == [path]


def test_permissions_are_the_umask_s_for_a_new_file_and_kept_for_an_old_one(tmp_path, old):
    mask = os.umask(0o027)
    try:
        atomic_write(tmp_path / "new.bin", b"new")
    finally:
        os.umask(mask)
    old.chmod(0o600)
    atomic_write(old, b"new")
    assert stat.S_IMODE((tmp_path / "new.bin").stat().st_mode) == 0o640
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_a_symbolic_link_is_followed(tmp_path, old):
    link = tmp_path / "link"
    link.symlink_to(old)
    atomic_write(link, b"new")
    assert link.is_symlink()
    assert old.read_bytes() == b"new"


def test_file_and_directory_are_synced(monkeypatch, old):
    synced = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: synced.append(stat.S_IFMT(os.fstat(descriptor).st_mode)))
    atomic_write(old, b"new")
    assert synced == [stat.S_IFREG, stat.S_IFDIR]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (errno.ENOSPC, "no space left on device; free some space or write to another disk"),
        (errno.EACCES, "permission denied; choose a place you may write to, or change its permissions"),
        (errno.EROFS, "read-only file system; choose a place you may write to"),
        (errno.EIO, "input/output error; choose another place"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_step_leaves_the_old_file_and_nothing_else(monkeypatch, old, code, text, step):
    owner = files.os if step == "fsync" else Path
    monkeypatch.setattr(owner, step, fails(OSError(code, os.strerror(code))))
    with pytest.raises(InputError) as caught:
        atomic_write(old, b"new")
    assert str(caught.value) == f"cannot write {old}: {text}"
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupt_leaves_the_old_file_and_nothing_else(monkeypatch, old, step):
    monkeypatch.setattr(files.os if step == "fsync" else Path, step, fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        atomic_write(old, b"new")
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


def test_a_directory_that_cannot_be_synced_does_not_undo_a_complete_file(monkeypatch, old):
    monkeypatch.setattr(files.os, "open", fails(PermissionError(errno.EACCES, "Permission denied")))
    atomic_write(old, b"new")
    assert old.read_bytes() == b"new"


def test_a_directory_a_device_and_a_file_as_parent_are_refused(tmp_path, old):
    texts = {
        tmp_path: "is a directory; give the name of a file inside it",
        Path("/dev/null"): "not a regular file; give the name of a regular file",
        old / "x": "file exists; a part of the path is a file; choose another path",
        tmp_path / ("x" * 300): "file name too long; choose a shorter name",
    }
    for path, text in texts.items():
        with pytest.raises(InputError) as caught:
            atomic_write(path, b"new")
        assert str(caught.value) == f"cannot write {path}: {text}"
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_the_longest_allowed_name_is_possible(tmp_path):
    path = tmp_path / ("x" * 255)
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_sha256_of_more_than_one_buffer(tmp_path):
    path = tmp_path / "big.bin"
    data = bytes(range(256)) * 8192
    path.write_bytes(data)
    assert sha256(path) == hashlib.sha256(data).hexdigest()
    path.write_bytes(b"abc")
    assert sha256(str(path)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_a_missing_file(tmp_path):
    path = tmp_path / "none"
    with pytest.raises(InputError) as caught:
        sha256(path)
    assert str(caught.value) == f"cannot read {path}: no such file or directory; give a readable file"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_files_that_belong_together_are_written_all_or_none(monkeypatch, tmp_path, old, step):
    calls = iter(range(9))
    real = os.fsync if step == "fsync" else Path.replace

    def second_fails(*args):
        if next(calls) == (1 if step == "fsync" else 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(files.os if step == "fsync" else Path, step, second_fails)
    with pytest.raises(InputError, match="no space left on device"):
        atomic_writes({old: b"new", tmp_path / "b": b"new"})
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]
    monkeypatch.undo()
    atomic_writes({old: b"new", tmp_path / "c" / "b": "newer"})
    assert (old.read_bytes(), (tmp_path / "c" / "b").read_bytes()) == (b"new", b"newer")


def test_what_a_killed_process_left_is_swept_an_hour_later(tmp_path, old):
    fresh, stale = tmp_path / ".infprune-00.tmp", tmp_path / ".infprune-11.tmp"
    for path in (fresh, stale):
        path.write_bytes(b"half")
    os.utime(stale, (0, time.time() - 3700))
    atomic_write(old, b"new")
    assert sorted(tmp_path.iterdir()) == [fresh, old]


def test_links_in_a_circle_are_one_line(tmp_path):
    link = tmp_path / "a"
    link.symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(link)
    with pytest.raises(InputError, match=f"cannot write {link}: "):
        atomic_write(link, "x")
    assert link.is_symlink()
