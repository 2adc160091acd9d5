"""Whether a file is still the one that the inventory listed.

Belongs here: a file's size, time and hash beside those of the inventory, before and after it is read. Nothing
here decodes media.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from emid_assets.media.limits import MediaError
from emid_assets.store.files import sha256_of

CHANGED = "changed since the inventory: the next build reads it again"
CANNOT_BE_READ = "file cannot be read"


def is_passing(reason: str) -> bool:
    """Whether a rejection may be over by the next build, though the file's size and time stay: try again."""
    return reason == CHANGED or reason.startswith(CANNOT_BE_READ)


_SHA256 = re.compile(r"[0-9a-f]{64}(?=#|$)")


def file_hash_of(content_hash: str) -> str | None:
    """The file's sha256 in a content hash of the inventory; None for other text."""
    found = _SHA256.match(content_hash)
    return found and found.group()


@contextlib.contextmanager
def unchanged(path: Path, content_hash: str) -> Iterator[None]:
    """Read a file in the block: what is read is what the inventory has hashed, or the block fails.

    Args:
        path: the file.
        content_hash: as in the inventory: the file's sha256, and the window. Other text, such as the empty
            hash of a file that is in no inventory, is not checked.

    Raises:
        MediaError: the file has another hash, or was replaced or written to while the block read it.
    """
    known = file_hash_of(content_hash)
    if known is None:
        yield
        return
    try:
        before = _identity(path)
        digest = sha256_of(path)
    except OSError as error:
        raise MediaError(f"{CANNOT_BE_READ}: {error.strerror or error}") from error
    if digest != known:
        raise MediaError(CHANGED)
    try:
        yield
    except Exception:  # half of a new file is unreadable in any way
        if _identity(path) != before:
            raise MediaError(CHANGED) from None
        raise
    if _identity(path) != before:
        raise MediaError(CHANGED)


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Size and modification time, by which inventories know a file; None if it is gone."""
    identity = _identity(path)
    return identity and identity[:2]


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    """Size, modification time, inode and device; None if the file is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev
