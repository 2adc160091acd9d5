"""Watches a media folder: a snapshot of it, and whether it has changed and then stopped changing.

Belongs here: comparing names, sizes and times. Nothing here reads a file's contents or a clock; the sensor in
`defs.automation` calls it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from emid_assets.media.folder import SUBFOLDERS, find_files, open_media_folder

TABLES = ("music.csv", "images.csv", "pairs.csv", "import.csv")
Verdict = Literal["as before", "settling", "changed"]
Stamp = tuple[int | None, int | None]
"""Size in bytes and modification time in nanoseconds; None if a file must not be opened."""


@dataclass(frozen=True)
class Look:
    """A snapshot of a media folder.

    Attributes:
        files: stamp of every file, by its path below the media folder; includes the tables.
    """

    files: dict[str, Stamp]

    @property
    def digest(self) -> str:
        """Equal for equal snapshots."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()[:16]


def look_at(media: Path) -> Look:
    """Take a snapshot of a media folder.

    Raises:
        MediaFolderError: it does not exist, or is not laid out as a media folder.
    """
    root = open_media_folder(media)
    files: dict[str, Stamp] = {}
    for kind, subfolder in SUBFOLDERS.items():
        for file in find_files(root, kind):
            files[f"{subfolder}/{file.below}"] = (file.size_bytes, file.modified_ns)
    for name in TABLES:
        if (root / name).is_file():
            status = (root / name).stat()
            files[name] = (status.st_size, status.st_mtime_ns)
    return Look(files)


def in_words(look: Look, known: Iterable[tuple[str, int | None, int | None]]) -> str:
    """The difference between a snapshot and an inventory's files, as `1 new, 0 changed, 2 removed`.

    Args:
        look: the folder now.
        known: file, size and modification time of the inventory's rows; without the tables.
    """
    before = {file: (size, modified) for file, size, modified in known}
    now = {file: stamp for file, stamp in look.files.items() if "/" in file}
    new = len(now.keys() - before.keys())
    removed = len(before.keys() - now.keys())
    changed = sum(now[file] != before[file] for file in now.keys() & before.keys())
    return f"{new} new, {changed} changed, {removed} removed"


@dataclass(frozen=True)
class Watch:
    """What is remembered from one snapshot to the next.

    Attributes:
        digest: digest of the last snapshot.
        since_s: when the folder was first seen in this state, in seconds.
        asked: digest for which a rebuild was last requested; empty before the first.
    """

    digest: str
    since_s: float
    asked: str = ""

    def to_text(self) -> str:
        """As one line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None) -> "Watch | None":
        """The inverse of `to_text`; None for no text, or for text of another form."""
        try:
            return cls(**json.loads(text)) if text else None
        except (ValueError, TypeError):
            return None


def judge(watch: Watch | None, digest: str, now_s: float, settle_s: float) -> tuple[Watch, Verdict]:
    """Whether the folder has changed since the last requested rebuild, and has stopped changing.

    A copy in progress changes sizes or times between two snapshots. The folder has stopped changing once all
    snapshots over at least `settle_s` seconds are the same.
    """
    if watch is None or watch.digest != digest or now_s < watch.since_s:  # or the clock was set back
        watch = Watch(digest, now_s, watch.asked if watch else "")
    if watch.asked == digest:
        return watch, "as before"
    if now_s - watch.since_s < settle_s:
        return watch, "settling"
    return replace(watch, asked=digest), "changed"
