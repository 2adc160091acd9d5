"""Crash-safe file writes, hashes of files, lock files, and a check whether any process has a file open.

Belongs here: what the store needs from the operating system. Nothing about tables.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import filelock

UNFINISHED_SUFFIX = ".unfinished"
"""Suffix of a file that is still being written."""


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, writable only by the owner and synced to disk when this returns."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o755, exist_ok=True)
    for path in missing:
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the contents of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_in_place(unfinished: Path, path: Path) -> None:
    """Sync a finished file and rename it to `path`, atomically: a reader sees the old file or the new one.

    Whatever the umask, only the owner may write to it.
    """
    unfinished.chmod(stat.S_IMODE(unfinished.stat().st_mode) & ~0o022)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


def put_folder_in_place(unfinished: Path, folder: Path) -> None:
    """Sync all that is in a finished folder and rename it to `folder`, which must not exist."""
    for path in unfinished.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(unfinished)
    unfinished.rename(folder)
    sync(folder.parent)


def write_in_place(path: Path, content: str | bytes) -> None:
    """Write a whole file atomically: even after a crash, a reader sees the old content or the new.

    Two writers do not disturb each other: the last one wins.
    """
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED_SUFFIX}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        put_in_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def held_alone(path: Path, refusal: Exception) -> Iterator[None]:
    """Hold a lock file, or raise `refusal` if another process holds it; a killed process leaves no lock."""
    lock = filelock.FileLock(path, timeout=0.5)  # `emid status` looks at it for a moment
    try:
        lock.acquire()
    except filelock.Timeout:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()


def is_open_somewhere(path: Path) -> bool:
    """Whether any process, this one included, has the DuckDB file `path` open.

    A process on another machine counts if the file system shares its locks (see docs/cluster.md).

    DuckDB holds a POSIX record lock (F_RDLCK on a read-only file, F_WRLCK otherwise) for as long as
    it has a file open. Querying the lock needs a descriptor, and closing any descriptor releases all POSIX
    locks that the same process holds on that file. So this process's own descriptors are checked first;
    where the system has no open-file-description locks (not Linux), only those are checked.
    """
    wanted = path.stat()
    for entry in Path("/dev/fd").iterdir():
        try:
            found = os.fstat(int(entry.name))
        except OSError:  # closed after it was listed
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return False
    # struct flock: type, whence, start, length (0: to the end), pid; `0q` pads to the C size.
    question = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
    finally:
        os.close(descriptor)
    (lock_type,) = struct.unpack_from("h", answer)
    return bool(lock_type != fcntl.F_UNLCK)
