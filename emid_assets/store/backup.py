"""Backups of a lake, and lakes from backups.

Belongs here: which files of a lake are kept, how each is read while runs write, and the folder of backups.

    files/<first two digits>/<sha256>     contents, each once, however many backups hold it
    backups/<time>.json                   a backup: path, sha256, size, time and inode of each file

A backup exists once its JSON file does, which is written last: whenever its writer is killed, the backups
before it are whole.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from emid_assets.store.files import (
    UNFINISHED_SUFFIX,
    held_alone,
    make_folder,
    put_folder_in_place,
    put_in_place,
    sha256_of,
    sync,
    write_in_place,
)
from emid_assets.store.lake import Lake, LakeError, _pointed
from emid_assets.store.layout import (
    CATALOGUE,
    JOURNAL_FOLDER,
    SEARCH_FOLDER,
    TABLES_FOLDER,
    WEIGHTS_FOLDER,
)

FORMAT = 1
FILES_FOLDER, BACKUPS_FOLDER = "files", "backups"
NOT_KEPT = frozenset({TABLES_FOLDER, CATALOGUE, JOURNAL_FOLDER, SEARCH_FOLDER})
"""In a lake's folder, beside hidden names: what is found in another way, or is made again."""

NOT_KEPT_SUFFIXES = frozenset({".lock", UNFINISHED_SUFFIX, ".db-wal", ".db-shm", ".wal"})
"""Of files that belong to a writer; what a database has not taken over yet is read through it."""

ATTEMPTS = 5
"""To read a file that others replace or write meanwhile."""

OnProgress = Callable[[int, int], None]
"""Called with the number of files that are done, and that of all."""


def _silent(done: int, total: int) -> None:
    """Show no progress."""


class BackupError(RuntimeError):
    """A backup cannot be made, or does not hold what it should; the message names the file."""


@dataclass(frozen=True)
class KeptFile:
    """A file in a backup.

    Attributes:
        path: below the lake's folder, with / between its parts.
        sha256: of its content.
        size: in bytes.
        modified_ns: modification time in nanoseconds.
        inode: in the lake; with path, size and time the same, the content is taken to be the same.
    """

    path: str
    sha256: str
    size: int
    modified_ns: int
    inode: int


@dataclass(frozen=True)
class Backup:
    """A backup, as its JSON file describes it."""

    name: str
    lake: str
    files: tuple[KeptFile, ...]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.size for file in self.files)


class Backups:
    """The backups in a folder.

    Args:
        folder: created by the first backup; on another disk than the lake, if it is to survive the disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.damaged: list[str] = []
        """Of the lake that was backed up last: partitions that were kept as they are, and what is wrong."""

    def names(self) -> list[str]:
        """Of all backups, the oldest first."""
        return sorted(file.stem for file in (self.folder / BACKUPS_FOLDER).glob("*.json"))

    def read(self, name: str | None = None) -> Backup:
        """A backup; the newest by default.

        Raises:
            BackupError: there is none, none of that name, or its file is damaged.
        """
        names = self.names()
        if not names or name not in (None, *names):
            have = f"it has {', '.join(names[-5:])}" if names else "it has none"
            raise BackupError(f"{self.folder} has no backup{f' {name}' if name else ''}: {have}")
        path = self._description(name or names[-1])
        try:
            told = json.loads(path.read_text("utf-8"))
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}, and this program reads {FORMAT}")
            files = tuple(KeptFile(**file) for file in told["files"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BackupError(f"{path} is damaged ({error!r}): restore another backup") from None
        return Backup(path.stem, told["lake"], files)

    def make(self, lake: Path, keep: int | None = None, on_progress: OnProgress = _silent) -> Backup:
        """Back up a lake, while runs may write to it. Only contents that no backup has are written.

        Each partition is kept as it is current when it is read, with its tables whole.

        Args:
            lake: its folder.
            keep: number of backups to keep, with this one; None keeps all.
            on_progress: see `OnProgress`.

        Raises:
            BackupError: there is no lake, another backup is being made, or a file changes all the time.
        """
        lake = lake.resolve()
        if not (lake / TABLES_FOLDER).is_dir():
            raise BackupError(f"{lake} holds no lake")
        if self.folder == lake or lake in self.folder.parents:
            raise BackupError(f"{self.folder} is inside the lake {lake}: give a folder outside it")
        make_folder(self.folder / BACKUPS_FOLDER)
        make_folder(self.folder / FILES_FOLDER)
        other = BackupError(f"another backup into {self.folder} is being made")
        with held_alone(self.folder / ".lock", other):
            before: dict[str, KeptFile] = {}
            with contextlib.suppress(BackupError):  # the first one, or a damaged one
                before = {file.path: file for file in self.read().files}
            files = tuple(self._keep_all(lake, before, on_progress))
            now = datetime.now(UTC)
            backup = Backup(f"{now:%Y-%m-%dT%H%M%S.%fZ}", str(lake), files)
            told = {"format": FORMAT, "lake": backup.lake, "files": [asdict(file) for file in files]}
            write_in_place(self._description(backup.name), json.dumps(told, ensure_ascii=False))
            if keep is not None:
                self._forget(self.names()[:-keep])
        return backup

    def restore(self, lake: Path, name: str | None = None, on_progress: OnProgress = _silent) -> Backup:
        """Make a lake from a backup, or nothing.

        Args:
            lake: its folder, which must not exist, or be empty.
            name: of the backup; the newest by default.
            on_progress: see `OnProgress`.

        Raises:
            BackupError: no such backup, something is at `lake`, or a content is missing or damaged.
        """
        backup, lake = self.read(name), lake.resolve()
        if lake.exists() and (not lake.is_dir() or any(lake.iterdir())):
            raise BackupError(f"{lake} exists: give a new folder, or move that one away")
        make_folder(lake.parent)
        unfinished = lake.with_name(f"{lake.name}.{secrets.token_hex(4)}{UNFINISHED_SUFFIX}")
        try:
            for done, file in enumerate(backup.files, start=1):
                target = unfinished / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as to:
                    self._check(file, to.write)
                os.utime(target, ns=(file.modified_ns, file.modified_ns))
                if _is_immutable(file.path):
                    target.chmod(0o444)
                on_progress(done, len(backup.files))
            if lake.exists():
                lake.rmdir()
            put_folder_in_place(unfinished, lake)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        restored = Lake(lake)
        restored.settle()
        restored.rebuild_catalogue()
        return backup

    def verify(self, name: str | None = None, on_progress: OnProgress = _silent) -> list[str]:
        """Read every content of a backup again; what is missing or damaged, a line each."""
        wrong = []
        files = self.read(name).files
        for done, file in enumerate(files, start=1):
            try:
                self._check(file, lambda chunk: None)
            except BackupError as error:
                wrong.append(str(error))
            on_progress(done, len(files))
        return wrong

    def _description(self, name: str) -> Path:
        return self.folder / BACKUPS_FOLDER / f"{name}.json"

    def _content(self, sha256: str) -> Path:
        return self.folder / FILES_FOLDER / sha256[:2] / sha256

    def _check(self, file: KeptFile, write: Callable[[bytes], object]) -> None:
        """Pass a file's content on, and compare its hash."""
        digest, path = hashlib.sha256(), self._content(file.sha256)
        try:
            with path.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
                    write(chunk)
        except FileNotFoundError:
            raise BackupError(f"{file.path}: its content {path} is missing") from None
        if digest.hexdigest() != file.sha256:
            raise BackupError(f"{file.path}: its content {path} is damaged")

    def _keep_all(
        self, lake: Path, before: Mapping[str, KeptFile], on_progress: OnProgress
    ) -> Iterator[KeptFile]:
        partitions, others = sorted((lake / TABLES_FOLDER).glob("*/*")), list(_other_files(lake))
        for done, path in enumerate([*partitions, *others], start=1):
            if done <= len(partitions):
                yield from self._keep_partition(lake, path, before)
            elif (kept := self._keep(lake, path, before)) is not None:
                yield kept
            on_progress(done, len(partitions) + len(others))

    def _keep_partition(self, lake: Path, folder: Path, before: Mapping[str, KeptFile]) -> list[KeptFile]:
        """What points to the current version, and that version."""
        for _ in range(ATTEMPTS):
            try:
                pointed = _pointed(folder)
            except LakeError as error:
                self.damaged.append(str(error))
                every = [self._keep(lake, path, before) for path in _other_files(folder)]
                return [file for file in every if file is not None]
            if pointed is None:
                return []
            pointer = self._keep(lake, folder / "CURRENT", before)
            version = self._keep(lake, pointed[0], before) if pointed[1] else None
            is_whole = pointer is not None and (version is not None or not pointed[1])
            if is_whole and pointed == _pointed(folder):
                return [file for file in (version, pointer) if file is not None]
        raise BackupError(f"{folder}: the version that its CURRENT names is not there: build it again")

    def _keep(self, lake: Path, path: Path, before: Mapping[str, KeptFile]) -> KeptFile | None:
        """A file with its content among ours; None if it is not there any more."""
        below = path.relative_to(lake).as_posix()
        for _ in range(ATTEMPTS):
            try:
                facts = path.stat()
                # What a database has not taken over yet does not show in its time.
                known = None if _is_database(below) else before.get(below)
                is_same = known is not None and (known.size, known.modified_ns, known.inode) == (
                    facts.st_size, facts.st_mtime_ns, facts.st_ino,
                )  # fmt: skip
                if known is not None and is_same and self._content(known.sha256).exists():
                    return known
                sha256, size = self._take(path, below)
                after = path.stat()
            except FileNotFoundError:
                return None
            # A database is read by its own means, which give one state of it.
            if _is_database(below) or (after.st_ino, after.st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns):
                return KeptFile(below, sha256, size, facts.st_mtime_ns, facts.st_ino)
        raise BackupError(f"{path} changes all the time: make the backup when nothing writes it")

    def _take(self, path: Path, below: str) -> tuple[str, int]:
        """Copy or link a file, `below` in the lake, into `files/`; its sha256 and size."""
        unfinished = self.folder / FILES_FOLDER / f"{secrets.token_hex(8)}{UNFINISHED_SUFFIX}"
        try:
            if _is_database(below) and path.suffix == ".db":
                _copy_sqlite(path, unfinished)
            elif _is_database(below):
                with filelock.FileLock(path.with_name(path.name + ".lock")):
                    shutil.copyfile(path, unfinished)
            elif not _is_immutable(below) or not _linked(path, unfinished):
                shutil.copyfile(path, unfinished)
            sha256 = sha256_of(unfinished)
            size, target = unfinished.stat().st_size, self._content(sha256)
            if not target.exists():
                make_folder(target.parent)
                if unfinished.stat().st_nlink > 1:  # a link to what the lake has synced and made read-only
                    unfinished.replace(target)
                    sync(target.parent)
                else:
                    unfinished.chmod(0o444)
                    put_in_place(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
        return sha256, size

    def _forget(self, names: list[str]) -> None:
        """Remove backups, and the contents that no other has."""
        for name in names:
            self._description(name).unlink()
        kept = {file.sha256 for name in self.names() for file in self.read(name).files}
        for content in (self.folder / FILES_FOLDER).glob("*/*"):
            if content.name not in kept:
                content.unlink()
        for left in (self.folder / FILES_FOLDER).glob(f"*{UNFINISHED_SUFFIX}"):
            left.unlink()


def _other_files(lake: Path) -> Iterator[Path]:
    """What is kept of a lake beside its tables. Links, locks and what is not finished are not."""
    for folder, names, files in os.walk(lake):
        if Path(folder) == lake:
            names[:] = [name for name in names if name not in NOT_KEPT and not name.startswith(".")]
            files = [name for name in files if name not in NOT_KEPT and not name.startswith(".")]
        names[:] = sorted(name for name in names if not name.endswith(UNFINISHED_SUFFIX))
        for name in sorted(files):
            path = Path(folder, name)
            if (
                path.suffix not in (".lock", UNFINISHED_SUFFIX, ".db-wal", ".db-shm")
                and not path.is_symlink()
            ):
                yield path


def _is_database(below: str) -> bool:
    """Whether a file of a lake is a database that others write to, unlike a version of a table."""
    return below.endswith((".db", ".duckdb")) and not _is_immutable(below)


def _is_immutable(below: str) -> bool:
    """Whether a file of a lake, once it has its name, is never written to again: a version, or weights."""
    top, _, name = below.partition("/")
    return top == WEIGHTS_FOLDER or (top == TABLES_FOLDER and name.endswith(".duckdb"))


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        return False
    return True


def _copy_sqlite(path: Path, target: Path) -> None:
    """One state of a database that others may be writing."""
    path.stat()  # connecting would make it
    with (
        contextlib.closing(sqlite3.connect(path, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
