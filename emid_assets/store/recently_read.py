"""Small files read before, kept in memory: a build reads the same few hundred again and again.

Belongs here: which are kept, and until when. A file of the lake never changes, and a replaced one is another
file, so what is kept never differs from the disk.
"""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")


class RecentlyRead(Generic[Content]):
    """Contents of files by their identity, the most recently used ones, up to `most_bytes` in all."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[tuple[object, ...], tuple[Content, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, path: Path) -> Content | None:
        """The content of a file; None if it is not kept, or no longer that file."""
        with self._lock:
            identity = _identity(path)
            if identity not in self._kept:
                return None
            self._kept.move_to_end(identity)
            return self._kept[identity][0]

    def keep(self, path: Path, content: Content, size: int) -> None:
        """Keep the content of a file that takes `size` bytes of memory, in place of older ones."""
        with self._lock:
            identity = _identity(path)
            self._bytes += size - self._kept.pop(identity, (content, 0))[1]
            self._kept[identity] = (content, size)
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1][1]


def _identity(path: Path) -> tuple[object, ...]:
    try:
        facts = path.stat()
    except OSError:
        return (path,)
    return (path, facts.st_ino, facts.st_size, facts.st_mtime_ns)
