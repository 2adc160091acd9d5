"""Walking a media folder: which files there are, and which of them must not be opened.

Belongs here: names, sizes and times of files. Nothing here reads a file's contents.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from emid_assets.media.kinds import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from emid_assets.media.limits import MediaError, MediaFolderError

SUBFOLDERS = {"music": "music", "image": "images"}
"""Sub-folder (and table, with .csv behind it) of each kind of media."""

SUFFIXES = {"music": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES}

LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"})
"""Names, in lower case, that operating systems leave behind; ignored, as hidden names are."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below music/ or images/.

    Attributes:
        below: path below that folder, with / between its parts.
        size_bytes: size; None where the file must not be opened.
        modified_ns: modification time in nanoseconds; None as above.
        problem: why the file must not be opened; None where it may.
    """

    below: str
    size_bytes: int | None
    modified_ns: int | None
    problem: str | None


def open_media_folder(media: Path) -> Path:
    """The real path of a media folder.

    Raises:
        MediaFolderError: it is no folder, has neither music/ nor images/, one of these is no folder
            or not in small letters, or it (or a table beside it) is a link that leads out.
    """
    if not media.is_dir():
        raise MediaFolderError(f"media folder {media} is not a folder that can be read")
    root = media.resolve()
    if not any((root / name).is_dir() for name in SUBFOLDERS.values()):
        raise MediaFolderError(f"media folder {media} holds neither music/ nor images/")
    for name in SUBFOLDERS.values():
        for found in root.iterdir():
            if found.name.casefold() == name and not (found.name == name and found.is_dir()):
                raise MediaFolderError(f"{found} must be a folder called {name}, in small letters")
        for entry in (root / name, root / f"{name}.csv"):
            if not is_inside(entry, root):
                raise MediaFolderError(f"{entry} is a link that leads out of the media folder {media}")
    return root


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path`, with every link in it followed, lies in the folder `root` (a real path)."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(root)
    except (OSError, ValueError):
        return False


def path_within(media: Path, file: str) -> Path:
    """The path of a file that an inventory has found, for opening it.

    Raises:
        MediaError: it leads out of the media folder by now: a link has taken its place since.
    """
    if not is_inside(media / file, media.resolve()):
        raise MediaError("is a link that leads out of the media folder")
    return media / file


def find_files(root: Path, kind: str) -> list[FoundFile]:
    """All files below the sub-folder of `kind`, by path; hidden ones and litter left out.

    Folders that are links are not followed; they stand in the list as a problem.

    Args:
        root: the media folder, a real path.
        kind: `music` or `image`.
    """
    found: list[FoundFile] = []
    top = root / SUBFOLDERS[kind]
    folders = [""] if top.is_dir() else []
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(top / folder))
        except OSError as error:
            found.append(FoundFile(folder or ".", None, None, f"folder cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            below = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(below)
            else:
                found.append(_found(entry, below, root, kind))
    return sorted(found, key=lambda file: file.below)


def _found(entry: os.DirEntry[str], below: str, root: Path, kind: str) -> FoundFile:
    def rejected(problem: str) -> FoundFile:
        return FoundFile(below, None, None, problem)

    try:
        below.encode()
    except UnicodeEncodeError:
        below = os.fsencode(below).decode("utf-8", "backslashreplace")
        return rejected("file name is not valid UTF-8: rename the file")
    if entry.is_symlink():
        if not is_inside(Path(entry.path), root):
            return rejected("is a link that leads out of the media folder")
        if entry.is_dir():
            return rejected("is a link to a folder, which is not followed: put the folder itself here")
    try:
        status = entry.stat()
    except OSError as error:
        return rejected(f"file cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return rejected("is not a regular file (a pipe, socket or device)")
    _, dot, after_dot = entry.name.rpartition(".")
    suffix = (dot + after_dot).lower() if dot else ""
    if suffix not in SUFFIXES[kind]:
        readable = ", ".join(known.lstrip(".") for known in SUFFIXES[kind])
        return rejected(f"is no {kind} file by its name: {suffix or 'no suffix'!r} is none of {readable}")
    return FoundFile(below, status.st_size, status.st_mtime_ns, None)
