"""Lists the files of a media folder, and marks those that must not be opened.

Belongs here: names, sizes and times of files. Nothing here reads a file's contents.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from emid_assets.media.kinds import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from emid_assets.media.limits import MediaError, MediaFolderError

SUBFOLDERS = {"music": "music", "image": "images"}
"""Sub-folder of each kind of media; the table has the same name with .csv."""

SUFFIXES = {"music": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES}

LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"})
"""Lower-case names of files that operating systems leave behind; ignored, like hidden files."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below music/ or images/.

    Attributes:
        below: path below that folder, with / between its parts.
        size_bytes: size; None if the file must not be opened.
        modified_ns: modification time in nanoseconds; None likewise.
        problem: why the file must not be opened; None if it may.
    """

    below: str
    size_bytes: int | None
    modified_ns: int | None
    problem: str | None


def open_media_folder(media: Path) -> Path:
    """The real path of a media folder.

    Raises:
        MediaFolderError: it is not a folder or has neither music/ nor images/; or one of these is not a
            folder, a table beside them not a file, or the name of one not in lower case; or one of them is a
            link that leads out.
    """
    try:
        root = media.resolve(strict=True)
        entries = list(root.iterdir())
    except (OSError, RuntimeError) as error:  # RuntimeError: a link in a circle
        reason = error.strerror if isinstance(error, OSError) else "a link in a circle"
        raise MediaFolderError(f"media folder {media} is not a readable folder: {reason}") from None
    names = dict.fromkeys(SUBFOLDERS.values(), os.path.isdir)
    tables = {f"{name}.csv": os.path.isfile for name in SUBFOLDERS.values()}
    for found in entries:
        name = found.name.casefold()
        is_right = (names | tables).get(name)
        if is_right is None:
            continue
        if not is_inside(found, root):
            raise MediaFolderError(f"{found} is a link that leads out of the media folder {media}")
        if found.name != name or not is_right(found):
            sort = "file" if name in tables else "folder"
            raise MediaFolderError(f"{found} must be a {sort} called {name}, in lower case, that can be read")
    if not any((root / name).is_dir() for name in names):
        raise MediaFolderError(f"media folder {media} contains neither music/ nor images/")
    return root


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path`, with all links resolved, is inside the folder `root` (a real path)."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(root)
    except (OSError, ValueError):
        return False


def path_within(media: Path, file: str) -> Path:
    """The path of a file in an inventory, checked before it is opened.

    Raises:
        MediaError: it now leads out of the media folder: a link has replaced the file.
    """
    if not is_inside(media / file, media.resolve()):
        raise MediaError("is a link that leads out of the media folder")
    return media / file


def find_files(root: Path, kind: str) -> list[FoundFile]:
    """All files below the sub-folder of `kind`, sorted by path; without hidden files and litter.

    Links to folders are not followed; they are listed with a problem.

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
    is_link = entry.is_symlink()
    if is_link and not is_inside(Path(entry.path), root):
        return rejected("is a link that leads out of the media folder")
    try:
        status = entry.stat()
    except OSError as error:
        if is_link:
            circle = error.errno == errno.ELOOP
            what = "in a circle" if circle else f"that leads nowhere ({error.strerror})"
            return rejected(f"is a link {what}: put the file itself here")
        return rejected(f"file cannot be read: {error.strerror}")
    if is_link and stat.S_ISDIR(status.st_mode):
        return rejected("is a link to a folder, which is not followed: put the folder itself here")
    if not stat.S_ISREG(status.st_mode):
        return rejected("is not a regular file (a pipe, socket or device)")
    _, dot, after_dot = entry.name.rpartition(".")
    suffix = (dot + after_dot).lower() if dot else ""
    if suffix not in SUFFIXES[kind]:
        readable = ", ".join(known.lstrip(".") for known in SUFFIXES[kind])
        return rejected(f"is not a known {kind} format: {suffix or 'no suffix'!r} is none of {readable}")
    return FoundFile(below, status.st_size, status.st_mtime_ns, None)
