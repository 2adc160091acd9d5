"""Watching a media folder: what it looks like now, and whether it has come to rest since it changed.

Belongs here: names, sizes and times, compared. Nothing here reads a file's contents, asks a clock or
knows who wants to know.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from emid_assets.media.folder import SUBFOLDERS, find_files, open_media_folder

Verdict = Literal["as before", "settling", "changed"]
Stamp = tuple[int | None, int | None]
"""Size in bytes and modification time in nanoseconds; None where a file must not be opened."""


@dataclass(frozen=True)
class Look:
    """A media folder as it is at one moment.

    Attributes:
        files: stamp of every file, by its path below the media folder; the tables are among them.
    """

    files: dict[str, Stamp]

    @property
    def digest(self) -> str:
        """Equal for equal looks."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()[:16]


def look_at(media: Path) -> Look:
    """What lies in a media folder.

    Raises:
        MediaFolderError: it is not there, or not laid out as a media folder.
    """
    root = open_media_folder(media)
    files: dict[str, Stamp] = {}
    for kind, subfolder in SUBFOLDERS.items():
        for file in find_files(root, kind):
            files[f"{subfolder}/{file.below}"] = (file.size_bytes, file.modified_ns)
        table = root / f"{subfolder}.csv"
        if table.is_file():
            status = table.stat()
            files[table.name] = (status.st_size, status.st_mtime_ns)
    return Look(files)


def in_words(look: Look, known: Iterable[tuple[str, int | None, int | None]]) -> str:
    """The difference between a look and the files that an inventory knows, as `1 new, 0 changed, 2 removed`.

    Args:
        look: the folder now.
        known: file, size and modification time of the inventory's rows; tables are not among them.
    """
    before = {file: (size, modified) for file, size, modified in known}
    now = {file: stamp for file, stamp in look.files.items() if "/" in file}
    new = len(now.keys() - before.keys())
    removed = len(before.keys() - now.keys())
    changed = sum(now[file] != before[file] for file in now.keys() & before.keys())
    return f"{new} new, {changed} changed, {removed} removed"


@dataclass(frozen=True)
class Watch:
    """What is remembered from one look to the next.

    Attributes:
        digest: of the last look.
        since_s: when the folder was first seen like this, seconds of the clock.
        asked: digest for which a rebuild was last asked; empty before the first.
    """

    digest: str
    since_s: float
    asked: str = ""

    def to_text(self) -> str:
        """As one line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None) -> "Watch | None":
        """What `to_text` wrote; None where nothing (or something else) was written."""
        try:
            return cls(**json.loads(text)) if text else None
        except (ValueError, TypeError):
            return None


def judge(watch: Watch | None, digest: str, now_s: float, settle_s: float) -> tuple[Watch, Verdict]:
    """Whether the folder has changed since a rebuild was last asked for, and has come to rest.

    A copy that is under way changes sizes or times between two looks: the folder is at rest once two
    looks at least `settle_s` apart, and all between, were the same.
    """
    if watch is None or watch.digest != digest or now_s < watch.since_s:  # or the clock was set back
        watch = Watch(digest, now_s, watch.asked if watch else "")
    if watch.asked == digest:
        return watch, "as before"
    if now_s - watch.since_s < settle_s:
        return watch, "settling"
    return replace(watch, asked=digest), "changed"
