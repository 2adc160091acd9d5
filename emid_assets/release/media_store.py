"""Putting published media under unique names into the folder that an import makes.

Belongs here: one medium in, a file or a reason out. A content is kept once, whatever it is called;
two contents never share a name.
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from emid_assets.media.audio import read_header
from emid_assets.media.folder import SUBFOLDERS
from emid_assets.media.limits import MediaError, MissingExtraError
from emid_assets.release.emid_source import Medium

_READABLE = {
    "music": "WAV, FLAC, Ogg, MP3, AIFF, AAC or MP4 audio",
    "image": "JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, HEIC or JPEG XL image",
}
MOST_NAME_BYTES = 200
"""File systems take 255; a mark and a suffix may be added."""

_UNFIT = re.compile(r"[\x00-\x1f\x7f/\\]+")
_SAME_KIND = (
    {".jpg", ".jpeg", ".jpe", ".jfif"},
    {".tif", ".tiff"},
    {".aif", ".aiff"},
    {".ogg", ".oga", ".opus"},
    {".heic", ".heif"},
)


@dataclass(frozen=True)
class Stored:
    """A stored medium, or why it was not stored.

    Attributes:
        name: file name below music/ or images/; empty where it could not be used.
        content_hash: sha256 of its bytes.
        size_bytes: their number.
        modified_ns: the file's modification time, nanoseconds.
        sample_rate: of music, where its header could be read.
        notes: what was repaired.
        problem: why it cannot be used; empty where it can.
    """

    name: str = ""
    content_hash: str = ""
    size_bytes: int = 0
    modified_ns: int = 0
    sample_rate: int = 0
    notes: tuple[tuple[str, str], ...] = ()
    problem: str = ""


@dataclass
class MediaStore:
    """music/ or images/ of the folder that is made, and which content has which name in it."""

    root: Path
    kind: str
    stored: dict[str, Stored] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    """Name, without regard to case → content."""

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.root / SUBFOLDERS[self.kind]

    def is_there(self, stored: Stored) -> bool:
        """Whether the file of an earlier import still lies there as it was."""
        try:
            status = (self.folder / stored.name).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (stored.size_bytes, stored.modified_ns)

    def remember(self, stored: Stored) -> None:
        """Take over what an earlier import has put in place."""
        if stored.name:
            self.stored.setdefault(stored.content_hash, stored)
            self.owner.setdefault(stored.name.casefold(), stored.content_hash)

    def put(self, medium: Medium) -> Stored:
        """Put a medium in its place; equal content keeps the name that it was given first."""
        if medium.problem:
            return Stored(problem=medium.problem)
        try:
            content = medium.content if medium.content is not None else _content_of(medium)
        except OSError as error:
            return Stored(problem=f"file cannot be read: {error.strerror or error}")
        if not content:
            return Stored(problem="empty (0 bytes)")
        content_hash = hashlib.sha256(content).hexdigest()
        if content_hash in self.stored:
            return self.stored[content_hash]
        suffix = _suffix_of(content, self.kind)
        if suffix is None:
            return Stored(problem=f"its contents are not {_READABLE[self.kind]}")
        name, notes = self._name(medium.name, suffix, content_hash)
        try:
            sample_rate = self._place(name, medium, content)
        except MediaError as error:
            return Stored(problem=error.reason)
        modified_ns = (self.folder / name).stat().st_mtime_ns
        stored = Stored(name, content_hash, len(content), modified_ns, sample_rate, tuple(notes))
        self.remember(stored)
        return stored

    def _name(self, published: str, suffix: str, content_hash: str) -> tuple[str, list[tuple[str, str]]]:
        notes = []
        name = _UNFIT.sub("_", published).strip().lstrip(".")
        if not name:
            name = f"{self.kind}-{content_hash[:16]}{suffix}"
            notes.append(("without a name", f"has no name: called {name}"))
        own = PurePosixPath(name).suffix.lower()
        stem = name[: len(name) - len(own)]
        while len(stem.encode()) > MOST_NAME_BYTES:
            stem = stem[:-1]
        name = stem + name[len(name) - len(own) :]
        if published.strip() and name != published.strip():
            notes.append(("name that no file may have", f"called {name}"))
        if own != suffix and not any({own, suffix} <= same for same in _SAME_KIND):
            notes.append(("name of another type", f"is {suffix[1:]} by its contents: called {name}{suffix}"))
            stem, name, own = name, name + suffix, suffix
        if self.owner.get(name.casefold(), content_hash) != content_hash:
            other = f"{stem}-{content_hash[:8]}{own}"
            notes.append(("name of two contents", f"{name} is another file already: called {other}"))
            name = other
        return name, notes

    def _place(self, name: str, medium: Medium, content: bytes) -> int:
        """Write or link the file beside its place, look at it, and rename it; its sample rate."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / ".unfinished"  # one name: the next one replaces that of a killed import
        unfinished.unlink(missing_ok=True)
        linked = False
        if medium.path is not None and not medium.path.is_symlink():
            with contextlib.suppress(OSError):  # another file system, or one without hard links
                os.link(medium.path, unfinished)
                linked = True
        if not linked:
            unfinished.write_bytes(content)
        try:
            sample_rate = read_header(unfinished).sample_rate if self.kind == "music" else 0
        except MissingExtraError:
            sample_rate = 0  # left to the build, which says so
        except MediaError:
            unfinished.unlink()
            raise
        unfinished.replace(self.folder / name)
        # Renaming over another name of the same file leaves both names.
        unfinished.unlink(missing_ok=True)
        return sample_rate


def _content_of(medium: Medium) -> bytes:
    assert medium.path is not None, "a medium without problem has its content or a file"
    return medium.path.read_bytes()


def _suffix_of(content: bytes, kind: str) -> str | None:
    """The suffix that the first bytes indicate."""
    head = content[:16]
    if kind == "music":
        if head[4:8] == b"ftyp":
            return ".m4a"
        for mark, suffix in (
            (b"RIFF", ".wav"), (b"RIFX", ".wav"), (b"RF64", ".wav"), (b"fLaC", ".flac"),
            (b"OggS", ".ogg"), (b"FORM", ".aiff"), (b"ID3", ".mp3"),
        ):  # fmt: skip
            if head.startswith(mark):
                return suffix
        start = content[:65536].lstrip(b"\0")[:2]
        if len(start) == 2 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0:
            return ".aac"
        return ".mp3" if len(start) == 2 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0 else None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[4:8] == b"ftyp":
        return ".avif" if head[8:12] in (b"avif", b"avis") else ".heic"
    for mark, suffix in (
        (b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
        (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"\xff\x0a", ".jxl"), (b"\0\0\0\x0cJXL ", ".jxl"),
    ):  # fmt: skip
        if head.startswith(mark):
            return suffix
    return None
