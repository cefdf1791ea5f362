"""Files that are either whole or untouched, and their digests."""

import contextlib
import errno
import hashlib
import os
import secrets
from pathlib import Path

from infprune.errors import InputError

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
    content = data.encode() if isinstance(data, str) else data
    try:
        target = Path(path).resolve()
        _check(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, content)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "choose another place")
        raise InputError(f"cannot write {path}: {_reason(error)}; {advice}") from error


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


def _check(target: Path) -> None:
    """Refuse what a rename would wrongly replace: directories, and devices such as /dev/null."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not a regular file")


def _replace(target: Path, content: bytes) -> None:
    # The name does not hold the target's: a target of the longest allowed name must stay possible.
    temporary = target.with_name(f".infprune-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode)
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()  # after the rename there is none
    _sync_directory(target.parent)


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
