"""What can befall a process at a file operation of the lake: a kill, a loss of power, a full disk.

Belongs here: what watches the operations of a child and acts on one of them. Python tells of every file that
it opens and every rename (audit hooks); what DuckDB writes by itself counts once it is synced or renamed.
"""

import errno
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emid_assets.build import stage_by_stage
from emid_assets.store import lake as lake_module
from emid_assets_tests.failures.tiny import ClockAt

MAY_BE_LOST = ("dagster",)
"""Dagster's records: without the last ones, no table is lost. What is called `.before` was synced before."""


@dataclass(frozen=True)
class Noting:
    """Note in a file what gets its name unsynced, and which finished file is opened for writing."""

    root: Path
    notes: Path

    def __call__(self) -> None:
        synced: dict[tuple[int, int], int] = {}
        fsync = os.fsync

        def noting(descriptor: int) -> None:
            fsync(descriptor)
            facts = os.fstat(descriptor)
            synced[facts.st_dev, facts.st_ino] = facts.st_mtime_ns

        os.fsync = noting

        def is_watched(path: Path) -> bool:
            below = path.relative_to(self.root).parts[:1] if path.is_relative_to(self.root) else ()
            return below != () and below[0] not in MAY_BE_LOST and path.suffix != ".before"

        def note(line: str) -> None:
            descriptor = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{line}\n".encode())
            os.close(descriptor)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.rename":
                source, target = (Path(os.fsdecode(name)) for name in arguments[:2])
                for path in [source, *source.rglob("*")] if is_watched(target) else ():
                    facts = path.stat()
                    if synced.get((facts.st_dev, facts.st_ino)) != facts.st_mtime_ns:
                        note(f"{path} is called {target} and not synced")
            elif event == "open" and not isinstance(arguments[0], int) and arguments[2] & os.O_TRUNC:
                path = Path(os.fsdecode(arguments[0]))
                if is_watched(path) and path.is_file() and path.stat().st_size and path.suffix != ".lock":
                    note(f"{path} is rewritten in place")

        sys.addaudithook(watch)


@dataclass(frozen=True)
class Fault:
    """Something that happens at the `at`-th file operation of this process in the lake.

    Attributes:
        root: the lake's folder.
        kind: `kill` ends the process; `power` too, and what is not synced is lost; `full`: from then on, the
            disk takes no new byte.
        at: from 1; a process with fewer operations is spared.
        replaced: an empty folder on the same disk, for what a rename replaces.
    """

    root: Path
    kind: Literal["kill", "power", "full"]
    at: int
    replaced: Path

    def __call__(self) -> None:
        disk = _Disk(self.root, self.replaced)
        done, is_ours = 0, False  # what a disk does by itself is no operation of the process

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal done, is_ours
            if is_ours or event not in OPERATIONS or isinstance(arguments[0], int):
                return
            path = Path(os.fsdecode(arguments[0]))
            if not path.is_relative_to(self.root) or path.relative_to(self.root).parts[:1] == MAY_BE_LOST:
                return
            done += 1
            is_ours = True
            try:
                if self.kind == "full":
                    if done >= self.at and takes_room(event, arguments, path):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                    return
                if event == "os.rename":
                    disk.renames(path, Path(os.fsdecode(arguments[1])))
                if done == self.at:
                    if self.kind == "power":
                        disk.lose_what_is_not_synced()
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                is_ours = False

        if self.kind == "full":
            write_version = lake_module._write_version

            def without_room(path: Path, *arguments: Any) -> None:
                write_version(path, *arguments)
                if done >= self.at:
                    os.truncate(path, path.stat().st_size // 2)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

            lake_module._write_version = without_room
        sys.addaudithook(watch)


OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate"}


def takes_room(event: str, arguments: tuple[Any, ...], path: Path) -> bool:
    """Whether an operation fails on a full disk: a new file or folder, or one that is rewritten."""
    if event == "open":
        is_new = arguments[2] & os.O_CREAT and not path.exists()
        return path.suffix != ".lock" and bool(is_new or arguments[2] & os.O_TRUNC)
    return event == "os.mkdir"


class _Disk:
    """What is on the disk of a folder, and what is in memory only."""

    def __init__(self, root: Path, replaced: Path) -> None:
        self.root, self.replaced = root, replaced
        self.synced = {_identity(path): path.stat().st_mtime_ns for path in root.rglob("*")}
        self.pending: list[tuple[Path, Path, Path | None]] = []
        fsync = os.fsync

        def noting(descriptor: int) -> None:
            fsync(descriptor)
            facts = os.fstat(descriptor)
            identity = facts.st_dev, facts.st_ino
            self.synced[identity] = facts.st_mtime_ns
            self.pending = [one for one in self.pending if _identity(one[1].parent) != identity]

        os.fsync = noting

    def renames(self, source: Path, target: Path) -> None:
        """Remember what a rename replaces, until its folder is synced."""
        before = None
        if target.is_file():
            before = self.replaced / str(len(list(self.replaced.iterdir())))
            os.link(target, before)
        self.pending.append((source, target, before))

    def lose_what_is_not_synced(self) -> None:
        """Take back the renames whose folder was not synced, and empty the files that were not."""
        for source, target, before in reversed(self.pending):
            if target.exists() and not source.exists():
                target.rename(source)
                if before is not None:
                    before.replace(target)
        for path in self.root.rglob("*"):
            is_lost = path.is_file() and path.relative_to(self.root).parts[:1] != MAY_BE_LOST
            if is_lost and self.synced.get(_identity(path)) != path.stat().st_mtime_ns:
                path.chmod(0o644)
                os.truncate(path, 0)


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


@dataclass(frozen=True)
class Circumstances:
    """What a child finds: its clock, what watches it, and perhaps a fault."""

    clock_s: float
    noting: Noting
    fault: Fault | None = None
    stages: frozenset[str] | None = None
    """The stages of a build; None for all."""

    def __call__(self) -> None:
        if self.clock_s:
            ClockAt(self.clock_s)()
        if self.stages is not None:
            only, stages = self.stages, stage_by_stage.stages
            stage_by_stage.stages = lambda *given: [stage for stage in stages(*given) if stage in only]
        self.noting()
        if self.fault is not None:
            self.fault()
