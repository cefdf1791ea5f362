"""Files that are either whole or untouched, and their digests."""

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from infprune import ranks
from infprune.errors import InputError

_TEMPORARY = ".infprune-*.tmp"
_ABANDONED = 3600  # seconds

_ADVICE = {
    errno.ENOSPC: "free some space or write to another disk",
    errno.EDQUOT: "free some of your quota or write to another disk",
    errno.EACCES: "choose a place you may write to, or change its permissions",
    errno.EPERM: "choose a place you may write to, or change its permissions",
    errno.EROFS: "choose a place you may write to",
    errno.EISDIR: "give the name of a file inside it",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.EEXIST: "a part of the path is a file; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EINVAL: "give the name of a regular file",
}


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write a file whole or not at all; text as UTF-8.

    A temporary file beside the target is written, synced and renamed over it. Until the rename an existing file stays
    as it was, and on any failure (an interrupt included) the temporary file is removed. Parent directories are made,
    symbolic links are followed, and an existing file keeps its permissions.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """
    atomic_writes({path: data})


def atomic_writes(files: Mapping[Any, bytes | str]) -> None:
    """Write files that belong together, by path: each as `atomic_write` does, and none of them if one cannot be.

    All are complete beside their targets before the first takes its place. Of several ranks, one writes.

    Raises:
        InputError: a place cannot be written to, or the disk is full.
    """
    if not ranks.leads():
        return
    with ExitStack() as cleanup:
        staged = []
        for path, data in files.items():
            with _told(path):
                target = _resolved(path)
                _check(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                _sweep(target.parent)
                staged.append((path, target, _stage(target, data, cleanup)))
        for path, target, temporary in staged:
            with _told(path):
                temporary.replace(target)
    for folder in {target.parent for _, target, _ in staged}:
        _sync_directory(folder)


def is_file(path: str | Path) -> bool:
    """Whether a file is there; a name that no file can have, such as one that is too long, is none."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def exists(path: str | Path) -> bool:
    """Whether anything is there, as `is_file`."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there, as `is_file`."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def same_place(a: str | Path, b: str | Path) -> bool:
    """Whether two paths lead to the same file, be it there or not; links in a circle lead to themselves."""
    return os.path.realpath(a) == os.path.realpath(b)


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces.

    Raises:
        InputError: the file is missing or unreadable.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {_reason(error)}; give a readable file") from error


def _resolved(path: str | Path) -> Path:
    """Follow links, so that a link stays one."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "links in a circle")
    return target


def _check(target: Path) -> None:
    """Refuse what a rename would wrongly replace: directories, and devices such as /dev/null."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file")


def _stage(target: Path, data: bytes | str, cleanup: ExitStack) -> Path:
    """Write and sync a temporary file beside the target; `cleanup` removes it if it is still there."""
    # The name does not hold the target's: a target of the longest allowed name must stay possible.
    temporary = target.with_name(_TEMPORARY.replace("*", secrets.token_hex(8)))
    cleanup.callback(_remove, temporary)
    with temporary.open("xb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    if target.exists():
        temporary.chmod(target.stat().st_mode)
    return temporary


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink()  # after the rename there is none


def _sweep(folder: Path) -> None:
    """Remove what killed processes left: temporary files that nobody has written to for an hour."""
    with contextlib.suppress(OSError):
        for temporary in folder.glob(_TEMPORARY):
            if temporary.stat().st_mtime < time.time() - _ABANDONED:
                _remove(temporary)


@contextlib.contextmanager
def _told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        raise InputError(f"cannot write {path}: {_reason(error)}; {advice}") from error


def _sync_directory(directory: Path) -> None:
    """Make the rename outlive a power cut, where the file system can; the file is complete either way."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
