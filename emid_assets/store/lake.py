"""The lake: a folder of immutable DuckDB files, one for each version of each partition of each table.

Belongs here: writing, finding, reading and deleting those files, and the catalogue over them.
Nothing about what a table means, and nothing about Dagster.

    lake.duckdb                                  the catalogue: one view for each table
    tables/<table>/<partition>/000007-1f9c.duckdb  a version: its tables `data` and `metadata`
    tables/<table>/<partition>/CURRENT           the name of the current version
    .bundles/<table>/<name>.duckdb               copies of many small versions in one file, for the catalogue

A version is written under a temporary name, synced, made read-only and renamed; then a new `CURRENT`
replaces the old one. Whenever a writer is killed, `CURRENT` names a complete version. Readers take no lock of
ours; writers of one partition queue for its `.lock`. The catalogue can be deleted and rebuilt at any time.
"""

import contextlib
import itertools
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import polars as pl

from emid_assets.store.connections import kept_connection
from emid_assets.store.duckdb_types import UnstorableError, check_storable, schema_from_text, schema_to_text
from emid_assets.store.files import (
    UNFINISHED_SUFFIX,
    is_open_somewhere,
    make_folder,
    put_in_place,
    write_in_place,
)
from emid_assets.store.layout import CATALOGUE, TABLES_FOLDER
from emid_assets.store.recently_read import RecentlyRead
from emid_assets.store.schemas import TABLES, TableSchema
from emid_assets.store.views import comment_of, glob_escaped, quoted, view_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

WHOLE_TABLE = "all"
"""The partition of a table that has no partitions."""

Scalar = str | int | float | bool | None

_FORMAT = "STORAGE_VERSION 'v1.5.0'"  # the oldest DuckDB that can open the files
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PARTITION_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_VERSION_NAME = re.compile(r"(\d{6,})-[0-9a-f]{8}\.duckdb")
_REMOVED = "removed after "
GRACE_S = 86_400.0
"""How long what was superseded stays for those who still read it."""

_LOCK_TIMEOUT_S = 600.0
_FOLDER_FILE = "folder"  # beside the remembered catalogues: the lake's folder when the last one was written
_LOOSE_FILES = 256  # the most that a view opens beside the bundles; a bundle holds as many versions
_SMALL_BYTES = 1 << 24  # opening a larger file costs less than reading it


_KEPT_FRAME_BYTES = 1 << 20  # the largest frame that is kept in memory to be read again
_VERSION_BYTES = 4096  # about what a version's facts take


class LakeError(RuntimeError):
    """The lake cannot do what was asked; the message names the file or partition and how to fix it."""


@dataclass(frozen=True)
class Version:
    """One immutable file: the content of a partition at one time.

    `bytes` is the size of the file, `frame_bytes` the size of the frame in memory.
    """

    table: str
    partition: str
    path: Path
    rows: int
    bytes: int
    frame_bytes: int
    schema: pl.Schema
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


_WAITING: dict[Path, bool] = {}
"""Lake in a `one_rebuild` → whether it needs one."""

_RECENT: RecentlyRead[tuple[Version, pl.DataFrame | None]] = RecentlyRead(64 << 20)


class Lake:
    """The tables below the folder `root`.

    Args:
        root: created by the first write. It may be moved, copied and mounted elsewhere (see `settle`).
        declared: tables that the catalogue shows as empty views until something is written to them.
    """

    def __init__(self, root: Path, declared: Mapping[str, TableSchema] = TABLES) -> None:
        self.root = Path(root).resolve()
        if "?" in str(self.root):
            raise LakeError(
                f"the lake's folder {self.root} has a question mark, at which DuckDB cuts a path; rename it"
            )
        if "\\" in str(self.root):
            raise LakeError(
                f"the lake's folder {self.root} has a backslash, which DuckDB takes for a /; rename it"
            )
        self.declared = declared

    @property
    def catalogue_path(self) -> Path:
        """The file that users open."""
        return self.root / CATALOGUE

    # Writing

    def write(
        self,
        table: str,
        partition: str,
        frame: pl.DataFrame,
        metadata: Mapping[str, Scalar] = {},
    ) -> Version:
        """Make `frame` the current version of a partition; `rebuild_catalogue` makes the catalogue show it.

        Raises:
            LakeError: a name, a type or a metadata value cannot be stored, or the disk failed. The
                previous version stays current.
        """
        import duckdb

        folder = self._folder(table, partition)
        for key, value in metadata.items():
            if not isinstance(value, Scalar):
                raise LakeError(
                    f"metadata {key!r} of {table}/{partition} is a {type(value).__name__}, not a scalar"
                )
        try:
            check_storable(frame)
        except UnstorableError as error:
            raise LakeError(f"cannot store {table}/{partition}: {error}") from error
        facts = {
            "rows": frame.height,
            "frame_bytes": int(frame.estimated_size()),
            "columns": json.dumps({name: str(dtype) for name, dtype in frame.schema.items()}),
            "polars_schema": schema_to_text(frame.schema),
            "metadata": json.dumps(dict(metadata)),
        }
        try:
            make_folder(folder)
            with self._partition_lock(folder):
                path = folder / f"{_clear_unfinished(folder) + 1:06}-{secrets.token_hex(4)}.duckdb"
                unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
                try:
                    _write_version(unfinished, frame, facts)
                    unfinished.chmod(0o444)
                    put_in_place(unfinished, path)
                    _point(folder, path.name)
                except BaseException:
                    with contextlib.suppress(OSError, LakeError):
                        _clear_unfinished(folder)
                    raise
        except (OSError, duckdb.Error) as error:
            raise LakeError(_cannot_write(table, partition, folder, error)) from error
        return Version(
            table,
            partition,
            path,
            frame.height,
            path.stat().st_size,
            int(frame.estimated_size()),
            frame.schema,
            dict(metadata),
        )

    @contextlib.contextmanager
    def built_alone(self, table: str, partition: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold a partition while its rows, and the files beside the table, are made.

        `on_wait` is called if another process holds it: then this one waits. A killed process holds nothing.

        Raises:
            LakeError: the folder cannot be written to.
        """
        folder = self._folder(table, partition)
        lock = filelock.FileLock(folder / ".building.lock", mode=0o644)
        try:
            make_folder(folder)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                on_wait()
                lock.acquire()
        except OSError as error:
            raise LakeError(_cannot_write(table, partition, folder, error)) from error
        try:
            yield
        finally:
            lock.release()

    def remove(self, table: str, partition: str) -> None:
        """Remove a partition from the table, if it is there; its files stay until `collect_garbage`."""
        folder = self._folder(table, partition)
        if not _is_there(folder):
            return
        try:
            with self._partition_lock(folder):
                if not _is_there(folder):
                    return
                if (newest := _newest(folder)) is None:
                    (folder / "CURRENT").unlink()
                else:
                    _point(folder, _REMOVED + newest.name)
        except OSError as error:
            raise LakeError(f"cannot remove {table}/{partition} in {folder}: {error}") from error

    def remove_others(self, table: str, partitions: Collection[str], beginning: str = "") -> list[str]:
        """Remove the partitions of a table that are not among `partitions`, and return their names.

        Args:
            table: its name.
            partitions: those that stay.
            beginning: only partitions whose name begins with this are removed.
        """
        others = [
            folder.name
            for folder in self._partition_folders(table)
            if folder.name not in partitions and folder.name.startswith(beginning) and _is_there(folder)
        ]
        for partition in others:
            self.remove(table, partition)
        return others

    # Finding

    def tables(self) -> list[str]:
        """All tables that have a folder, sorted."""
        return sorted(
            path.name for path in _folders(self.root / TABLES_FOLDER) if _TABLE_NAME.fullmatch(path.name)
        )

    def partitions(self, table: str) -> list[str]:
        """The partitions that have a current version, sorted."""
        return list(self.current_files(table))

    def current_files(self, table: str) -> dict[str, Path]:
        """Partition → its current file, sorted by partition; opens no file."""
        found = {folder.name: _current_path(folder) for folder in self._partition_folders(table)}
        return {partition: path for partition, path in found.items() if path is not None}

    def _partition_folders(self, table: str) -> list[Path]:
        folders = _folders(self._table_folder(table))
        return sorted(path for path in folders if _PARTITION_NAME.fullmatch(path.name))

    def current(self, table: str, partition: str) -> Version | None:
        """The current version with its metadata; None if the partition was never built or was removed."""

        if _current_path(self._folder(table, partition)) is None:
            return None
        with kept_connection() as connection:
            return self._version(connection, table, partition)

    def versions(self, table: str) -> list[Version]:
        """The current version of every partition with its metadata, sorted by partition."""

        found = []
        with kept_connection() as connection:
            for partition in self.partitions(table):
                found.append(self._version(connection, table, partition))
        return found

    def survey(self, tables: Iterable[str]) -> dict[tuple[str, str], Version | LakeError]:
        """(Table, partition) → its current version, or the error of a damaged one, which hides no other."""
        found: dict[tuple[str, str], Version | LakeError] = {}
        with kept_connection() as connection:
            places = [(table, folder) for table in tables for folder in self._partition_folders(table)]
            for table, folder in places:
                try:
                    if _current_path(folder) is not None:
                        found[table, folder.name] = self._version(connection, table, folder.name)
                except LakeError as error:
                    found[table, folder.name] = error
        return found

    def removed(self, table: str) -> list[Version]:
        """The last versions of removed partitions that `collect_garbage` has left, for `read_batches`."""
        found = []
        with kept_connection() as connection:
            for folder in self._partition_folders(table):
                with contextlib.suppress(LakeError):  # a damaged one is of no use
                    path, is_current = _pointed(folder) or (folder, True)
                    if is_current or not path.exists():
                        continue
                    with self._attached(connection, table, folder.name, path) as version:
                        found.append(version)
        return found

    # Reading

    def read(
        self,
        table: str,
        partitions: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The rows of the partitions in the given order; of all partitions, sorted, if None.

        Raises:
            LakeError: a partition is not built, a column does not exist, partitions differ in their
                types, or a file is damaged.
        """
        return self.read_with_versions(table, partitions, columns)[0]

    def read_with_versions(
        self,
        table: str,
        partitions: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> tuple[pl.DataFrame, list[Version]]:
        """Like `read`, with the versions that the rows are of."""
        frames: list[pl.DataFrame] = []
        versions: list[Version] = []
        with kept_connection() as connection:
            for partition in self._wanted(table, partitions):
                path = self._existing_path(table, partition)
                version, frame = self._small(connection, table, partition, path)
                versions.append(version)
                wanted = _columns(version, columns, versions[0])
                if frame is None:
                    with self._attached(connection, table, partition, path):
                        frame = _frame(connection.sql(_select(wanted)).to_arrow_table(), version)
                frames.append(frame.select(wanted))
        return pl.concat(frames), versions

    def read_batches(
        self,
        table: str,
        columns: Sequence[str] | None,
        batch_rows: int,
        versions: Sequence[Version] | None = None,
    ) -> Iterator[pl.DataFrame]:
        """Like `read`, in frames of at most `batch_rows` rows; only one is in memory at a time.

        `versions` selects what to read, as the method of that name returned it: repeated reads then give the
        same rows, whatever is built in between. The default is everything that is current at the start.
        """
        import duckdb

        if batch_rows < 1:
            raise LakeError(f"batch_rows is {batch_rows}; it must be at least 1")
        if versions is None:
            versions = self.versions(table)
        if not versions:
            raise LakeError(f"{self.root} holds no table {table} yet: build it first (emid build)")
        first = None
        for named in versions:
            with kept_connection() as connection:
                version, frame = self._small(connection, table, named.partition, named.path)
            first = first or version
            wanted = _columns(version, columns, first)
            if frame is not None:
                yield from frame.select(wanted).iter_slices(batch_rows)
                continue
            with (
                duckdb.connect() as connection,  # its own: with a limit, and while others read
                self._attached(connection, table, named.partition, named.path),
            ):
                connection.execute(f"SET memory_limit = '{_streaming_memory_mib(version, batch_rows)}MiB'")
                query = connection.sql(_select(wanted))
                for batch in query.to_arrow_reader(max(1, min(batch_rows, version.rows))):
                    yield from _frame(batch, version).iter_slices(batch_rows)

    def _version(self, connection: "duckdb.DuckDBPyConnection", table: str, partition: str) -> Version:
        path = self._existing_path(table, partition)
        if (kept := _RECENT.get(path)) is None:
            with self._attached(connection, table, partition, path) as version:
                _RECENT.keep(path, kept := (version, None), _VERSION_BYTES)
        return kept[0]

    def _small(
        self, connection: "duckdb.DuckDBPyConnection", table: str, partition: str, path: Path
    ) -> tuple[Version, pl.DataFrame | None]:
        """A version, and its whole frame unless that is large; kept in memory for the next reader."""
        kept = _RECENT.get(path)
        if kept is None or (kept[1] is None and kept[0].frame_bytes <= _KEPT_FRAME_BYTES):
            with self._attached(connection, table, partition, path) as version:
                frame, size = None, _VERSION_BYTES
                if version.frame_bytes <= _KEPT_FRAME_BYTES:
                    query = connection.sql(_select(list(version.schema)))
                    frame, size = _frame(query.to_arrow_table(), version), size + version.frame_bytes
                _RECENT.keep(path, kept := (version, frame), size)
        return kept

    def _wanted(self, table: str, partitions: Sequence[str] | None) -> list[str]:
        wanted = self.partitions(table) if partitions is None else list(partitions)
        if not wanted:
            raise LakeError(f"{self.root} holds no table {table} yet: build it first (emid build)")
        return wanted

    def _existing_path(self, table: str, partition: str) -> Path:
        """The file of the current version of a partition that must be built."""
        path = None
        while True:
            before, path = path, _current_path(self._folder(table, partition))
            if path is None:
                built = ", ".join(self.partitions(table)) or "none"
                raise LakeError(
                    f"partition {partition} of table {table} is not built (built: {built}); build it first"
                )
            if path.exists():
                return path
            # A version may be superseded and deleted between reading CURRENT and opening the file: retry.
            if path == before:
                raise LakeError(
                    f"{path} is missing, though CURRENT beside it names it; build {table}/{partition} again"
                )

    @contextlib.contextmanager
    def _attached(
        self, connection: "duckdb.DuckDBPyConnection", table: str, partition: str, path: Path
    ) -> Iterator[Version]:
        """Attach a version's file as `version`; a damaged file becomes a LakeError."""
        import duckdb

        try:
            connection.execute(f"ATTACH {quoted(path)} AS version (READ_ONLY)")
            try:
                facts = dict(connection.execute("SELECT key, value FROM version.metadata").fetchall())
                yield Version(
                    table,
                    partition,
                    path,
                    int(facts["rows"]),
                    path.stat().st_size,
                    int(facts["frame_bytes"]),
                    schema_from_text(facts["polars_schema"]),
                    json.loads(facts["metadata"]),
                )
            finally:
                with contextlib.suppress(duckdb.Error):
                    connection.execute("DETACH version")
        except (duckdb.Error, OSError, KeyError) as error:
            raise LakeError(
                f"{path} cannot be read: {error}. Build {table}/{partition} again, or write the name of an "
                "older version in that folder into its CURRENT."
            ) from error

    # The catalogue

    def rebuild_catalogue(self) -> Path:
        """Rewrite `lake.duckdb`, one view for each table over its current files, and rename it into place.

        A process that has the old catalogue open keeps it, and the files that it shows, until it closes it.
        Concurrent callers share one rebuild: a caller that gets the lock and finds that a whole rebuild
        started and finished after its call does nothing. In a `one_rebuild` it waits for the block's end.
        """
        import duckdb

        if self.root in _WAITING:
            _WAITING[self.root] = True
            return self.catalogue_path
        try:
            make_folder(self._catalogues)
            begun_before = self._rebuilds("begun")
            with self._catalogue_lock():
                begun, ended = self._rebuilds("begun"), self._rebuilds("ended")
                if not _has_been_rebuilt(begun_before, begun, ended) or not self.catalogue_path.exists():
                    number = max(begun or 0, ended or 0) + 1
                    write_in_place(self._catalogues / "begun", str(number))
                    self._rebuild_catalogue()
                    write_in_place(self._catalogues / "ended", str(number))
        except (OSError, duckdb.Error) as error:
            raise LakeError(
                f"cannot write the catalogue {self.catalogue_path}: {error}. The tables are untouched; check "
                "that the folder is writable and the disk has space, then run again."
            ) from error
        return self.catalogue_path

    def settle(self) -> Path | None:
        """Rebuild the catalogue if it was written in another folder, and return that folder.

        Clients that open a moved or copied `lake.duckdb` read the right tables without this; clients that
        attach it get an error until it is rebuilt here. None if there was nothing to do, or no catalogue.

        Raises:
            LakeError: the catalogue cannot be written, or the tables are gone.
        """
        if self.catalogue_path.exists() and not (self.root / TABLES_FOLDER).is_dir():
            raise LakeError(
                f"its folder {TABLES_FOLDER}/ is gone, which {CATALOGUE} shows: copy it from where the lake "
                f"comes from, or delete {self.catalogue_path} to build everything again"
            )
        written_for = self._written_for()
        if written_for == self.root or not self.catalogue_path.exists():
            return None
        self.rebuild_catalogue()
        return written_for

    def _written_for(self) -> Path | None:
        """The folder for which the catalogue was written; None if it is from before this was recorded."""
        try:
            return Path((self._catalogues / _FOLDER_FILE).read_text("utf-8"))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def one_rebuild(self) -> Iterator[None]:
        """Rebuild the catalogue once for all that this process writes in the block, when the block ends.

        Until then the catalogue shows the versions from before it, which stay. If the process is killed, it
        shows them until the next rebuild.
        """
        if self.root in _WAITING:
            yield
            return
        _WAITING[self.root] = False
        try:
            yield
        finally:
            if _WAITING.pop(self.root):
                self.rebuild_catalogue()

    def _rebuilds(self, what: str) -> int | None:
        """How many rebuilds have begun or ended; None if that is unknown."""
        try:
            return int((self._catalogues / what).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def _rebuild_catalogue(self) -> None:

        files: dict[str, list[Path]] = {}
        damaged: dict[str, str] = {}
        for table in self.tables():
            try:
                files[table] = self._bundled(table)
            except LakeError as error:  # one damaged CURRENT must not block the other tables either
                damaged[table] = str(error)
        unfinished = self.catalogue_path.with_name(self.catalogue_path.name + UNFINISHED_SUFFIX)
        for leftover in self.root.glob(unfinished.name + "*"):
            leftover.unlink()
        with kept_connection() as connection:
            connection.execute(f"ATTACH {quoted(unfinished)} AS catalogue ({_FORMAT}, BLOCK_SIZE 16384)")
            tables = sorted({*(table for table in files if files[table]), *damaged, *self.declared})
            for table in tables:
                self._create_view(connection, table, files.get(table, []), damaged.get(table))
            for table in tables[:1]:
                comment = quoted(comment_of(self.root))
                connection.execute(f'COMMENT ON VIEW catalogue.main."{table}" IS {comment}')
            connection.execute("CHECKPOINT catalogue")
            connection.execute("DETACH catalogue")
        self._remember_catalogue(unfinished, [path for paths in files.values() for path in paths])
        # A write-ahead log left beside the old catalogue must not be replayed into the new one.
        self.catalogue_path.with_name(f"{CATALOGUE}.wal").unlink(missing_ok=True)
        put_in_place(unfinished, self.catalogue_path)
        if self._written_for() != self.root:
            write_in_place(self._catalogues / _FOLDER_FILE, str(self.root))

    def _create_view(
        self, connection: "duckdb.DuckDBPyConnection", table: str, files: Sequence[Path], damage: str | None
    ) -> None:
        """Create a table's view; if its files cannot be read as one table, one that says so."""
        import duckdb

        create = f'CREATE VIEW catalogue.main."{table}" AS '
        paths = [path.relative_to(self.root).as_posix() for path in files]
        is_never = "false" if damage is None else f"error({quoted(damage)}) IS NULL"
        if paths:
            try:
                connection.execute(create + view_of(paths, self.root))
                return
            except duckdb.Error as error:
                # One damaged file must not block the other tables; readers of this one get the error.
                reason = str(error).partition("\n")[0]
                message = f"table {table} cannot be read: {reason} Build the partition of that file again."
                is_never = f"error({quoted(message)}) IS NULL"
        columns = self._declared_columns(connection, table)
        connection.execute(f"{create}SELECT {columns} WHERE {is_never}")

    def _declared_columns(self, connection: "duckdb.DuckDBPyConnection", table: str) -> str:
        """The declared columns of a table as a SELECT list of typed nulls."""
        if table not in self.declared:
            return "NULL AS nothing"
        connection.register("declared", self.declared[table].empty().to_arrow())
        described = connection.execute("DESCRIBE declared").fetchall()
        connection.unregister("declared")
        return ", ".join(f"NULL::{row[1]} AS {_identifier(row[0])}" for row in described)

    # Bundles

    def _bundled(self, table: str) -> list[Path]:
        """The files behind a table's view: bundles whose versions are all still current, and loose versions.

        A query on a view opens all of its files, so thousands of small ones are copied into bundles. Each
        bundle is written once: if one of its versions is superseded, the bundle is no longer used, and its
        other versions are loose until they are bundled again.
        """
        import duckdb

        loose = set(self.current_files(table).values())
        if len(loose) <= _LOOSE_FILES:
            return sorted(loose)
        folder = self.root / ".bundles" / table
        make_folder(folder)
        bundles = []
        for listing in sorted(folder.glob("*.files")):
            members = {self.root / line for line in listing.read_text("utf-8").splitlines()}
            if members <= loose:
                bundles.append(listing.with_suffix(".duckdb"))
                loose -= members
        small = [path for path in sorted(loose) if _is_small(path)]
        while len(small) > _LOOSE_FILES:
            members, small = set(small[:_LOOSE_FILES]), small[_LOOSE_FILES:]
            try:
                bundles.append(self._bundle(folder, sorted(members)))
            except duckdb.Error:  # a damaged version: the view names it
                break
            loose -= members
        return [*bundles, *sorted(loose)]

    def _bundle(self, folder: Path, members: Sequence[Path]) -> Path:

        for leftover in folder.glob("*" + UNFINISHED_SUFFIX + "*"):
            leftover.unlink()
        path = folder / f"{time.time_ns():020}.duckdb"
        unfinished = path.with_name(path.name + UNFINISHED_SUFFIX)
        with kept_connection() as connection:
            connection.execute(f"ATTACH {quoted(unfinished)} AS bundle ({_FORMAT})")
            connection.execute(f"CREATE TABLE bundle.data AS {_all_of(members)}")
            connection.execute("CHECKPOINT bundle")
            connection.execute("DETACH bundle")
        unfinished.chmod(0o444)
        put_in_place(unfinished, path)
        # Written last: a bundle is in use once its list exists.
        listing = path.with_suffix(".files")
        write_in_place(listing, "\n".join(member.relative_to(self.root).as_posix() for member in members))
        return path

    def _collect_bundles(self, shown: set[str]) -> list[Path]:
        removed = []
        for path in sorted((self.root / ".bundles").glob("*/*.duckdb")):
            if path.relative_to(self.root).as_posix() not in shown and not is_open_somewhere(path):
                path.with_suffix(".files").unlink(missing_ok=True)
                path.unlink()
                removed.append(path)
        return removed

    # Clearing away

    def collect_garbage(self, grace_s: float) -> list[Path]:
        """Delete files that are no longer needed, and return them.

        Deletes what a killed writer left, and every version that was superseded or removed at least
        `grace_s` seconds ago. Keeps current versions, versions that the catalogue (or an older catalogue that
        is still open somewhere) shows, versions that any process has open, and everything in a partition that
        is being written right now or whose `CURRENT` is damaged.
        """
        if not self.root.is_dir():
            return []
        removed: list[Path] = []
        with self._catalogue_lock():
            self._forget_closed_catalogues(grace_s)
            shown = {
                line
                for listing in self._catalogues.glob("*.files")
                for line in listing.read_text("utf-8").splitlines()
            }
            removed += self._collect_bundles(shown)
            for table in self.tables():
                for folder in _folders(self._table_folder(table)):
                    unjudged = contextlib.suppress(filelock.Timeout, LakeError)
                    with unjudged, self._partition_lock(folder, timeout=0):
                        removed += self._collect_partition(folder, shown, time.time() - grace_s)
        return removed

    def _collect_partition(self, folder: Path, shown: set[str], superseded_before: float) -> list[Path]:
        before = set(folder.iterdir())
        _clear_unfinished(folder)
        if (pointed := _pointed(folder)) is None:
            return sorted(before - set(folder.iterdir()))
        # A version was current until the next one was written, or until it was removed.
        versions = _versions(folder)
        for path, successor in itertools.pairwise([*versions, folder / "CURRENT"]):
            if (
                pointed != (path, True)
                and successor.stat().st_mtime <= superseded_before
                and path.relative_to(self.root).as_posix() not in shown
                and not is_open_somewhere(path)
            ):
                path.unlink()
        return sorted(before - set(folder.iterdir()))

    @property
    def _catalogues(self) -> Path:
        return self.root / ".catalogues"

    def _remember_catalogue(self, catalogue: Path, files: Iterable[Path]) -> None:
        """Hard-link the catalogue beside a list of its files; both survive when it is replaced."""
        make_folder(self._catalogues)
        self._forget_closed_catalogues()
        before = [int(listing.stem) for listing in self._catalogues.glob("*.files")]
        listing = self._catalogues / f"{max([time.time_ns(), *(number + 1 for number in before)]):020}.files"
        write_in_place(listing, "\n".join(path.relative_to(self.root).as_posix() for path in files))
        # Where a file system has no hard links, its list stays for as long as a reader may have it open.
        with contextlib.suppress(OSError):
            os.link(catalogue, listing.with_suffix(".duckdb"))

    def _forget_closed_catalogues(self, grace_s: float = GRACE_S) -> None:
        for leftover in self._catalogues.glob("*" + UNFINISHED_SUFFIX):
            leftover.unlink()
        listings = sorted(self._catalogues.glob("*.files"))
        # Without hard links, one of the last two is the current catalogue's: a rebuild may have been killed.
        for number, listing in enumerate(listings):
            catalogue = listing.with_suffix(".duckdb")
            if catalogue.exists():
                is_current = self.catalogue_path.exists() and catalogue.samefile(self.catalogue_path)
                if not is_current and not is_open_somewhere(catalogue):
                    catalogue.unlink()
                    listing.unlink()
            elif number < len(listings) - 2 and listings[number + 1].stat().st_mtime <= time.time() - grace_s:
                listing.unlink()

    # Names and locks

    def _folder(self, table: str, partition: str) -> Path:
        if not _PARTITION_NAME.fullmatch(partition):
            raise LakeError(
                f"{partition!r} is not a partition name (table {table}): use lower-case letters, digits, _ "
                "and -, at most 100, a letter or digit first"
            )
        return self._table_folder(table) / partition

    def _table_folder(self, table: str) -> Path:
        if not _TABLE_NAME.fullmatch(table):
            raise LakeError(
                f"{table!r} is not a table name: use lower-case letters, digits and _, "
                "at most 63, a letter first"
            )
        return self.root / TABLES_FOLDER / table

    def _partition_lock(self, folder: Path, timeout: float = _LOCK_TIMEOUT_S) -> filelock.BaseFileLock:
        return filelock.FileLock(folder / ".lock", timeout=timeout, mode=0o644)

    def _catalogue_lock(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self.root / f"{CATALOGUE}.lock", timeout=_LOCK_TIMEOUT_S, mode=0o644)


def _has_been_rebuilt(begun_before: int | None, begun: int | None, ended: int | None) -> bool:
    """Whether a whole rebuild was made since `begun_before`; not if a count was lost with the power."""
    if begun_before is None or begun is None or ended is None:
        return False
    return begun_before < ended <= begun


def _cannot_write(table: str, partition: str, folder: Path, error: Exception) -> str:
    return (
        f"cannot write {table}/{partition} in {folder}: {error}. The previous version is untouched; "
        "check that the folder is writable and the disk has space, then run again."
    )


def _write_version(path: Path, frame: pl.DataFrame, facts: Mapping[str, object]) -> None:
    # A file uses several blocks for each column; DuckDB's default of 256 KiB would waste space on few rows.

    block_bytes = 16_384 if frame.estimated_size() < 4_000_000 else 262_144
    with kept_connection() as connection:
        connection.execute(f"ATTACH {quoted(path)} AS version ({_FORMAT}, BLOCK_SIZE {block_bytes})")
        connection.register("frame", frame.to_arrow())
        connection.execute("CREATE TABLE version.data AS SELECT * FROM frame")
        connection.unregister("frame")
        connection.execute("CREATE TABLE version.metadata (key VARCHAR, value VARCHAR)")
        connection.execute(
            "INSERT INTO version.metadata SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
            [list(facts), [str(fact) for fact in facts.values()]],
        )
        # DETACH alone would swallow an error of the last write.
        connection.execute("CHECKPOINT version")
        connection.execute("DETACH version")


def _streaming_memory_mib(version: Version, batch_rows: int) -> int:
    """Memory limit for streaming a version; without one, DuckDB keeps every block that it has read."""
    at_once = min(max(batch_rows, 2048), version.rows)  # DuckDB always works on 2048 rows
    return 128 + (4 * at_once * version.frame_bytes // max(1, version.rows) >> 20)


def _select(columns: Sequence[str]) -> str:
    return f"SELECT {', '.join(map(_identifier, columns))} FROM version.data"


def _columns(version: Version, columns: Sequence[str] | None, first: Version) -> list[str]:
    """`columns` of a version, by default those of `first`, whose types must match."""
    columns = list(first.schema if columns is None else columns)
    unknown = [name for name in columns if name not in version.schema]
    if unknown or not columns:
        raise LakeError(
            f"{version.table}/{version.partition} has no column {', '.join(unknown)}; it has "
            + ", ".join(version.schema)
        )
    for name in columns:
        if version.schema[name] != first.schema[name]:
            raise LakeError(
                f"table {version.table}: column {name} is {version.schema[name]} in partition "
                f"{version.partition}, but {first.schema[name]} in {first.partition}; build the older again"
            )
    return columns


def _frame(rows: "pa.Table | pa.RecordBatch", version: Version) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame.cast({name: version.schema[name] for name in frame.columns})


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _versions(folder: Path) -> list[Path]:
    """The version files of a partition, oldest first."""
    return sorted((path for path in folder.iterdir() if _VERSION_NAME.fullmatch(path.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _pointed(folder: Path) -> tuple[Path, bool] | None:
    """The version that CURRENT names and whether it is current (not removed); None without CURRENT."""
    try:
        text = (folder / "CURRENT").read_text("utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    name = text.removeprefix(_REMOVED)
    if not _VERSION_NAME.fullmatch(name):
        raise LakeError(
            f"{folder / 'CURRENT'} is damaged: build that partition again, or write the name of a version in "
            "that folder into it"
        )
    return folder / name, name == text


def _current_path(folder: Path) -> Path | None:
    pointed = _pointed(folder)
    return pointed[0] if pointed and pointed[1] else None


def _is_there(folder: Path) -> bool:
    """Whether a partition has a current version, or a damaged CURRENT, so that nobody knows which."""
    try:
        return _current_path(folder) is not None
    except LakeError:
        return True


def _newest(folder: Path) -> Path | None:
    """The current version; where CURRENT is damaged, the last one that was written, if any."""
    try:
        return _current_path(folder)
    except LakeError:
        return max(_versions(folder), key=_number, default=None)


def _point(folder: Path, text: str) -> None:
    write_in_place(folder / "CURRENT", text + "\n")


def _clear_unfinished(folder: Path) -> int:
    """Delete what a killed writer left, and return the number of the last current version.

    The caller holds the partition's lock. No reader has ever seen a version newer than the one that CURRENT
    names. Without a CURRENT that names one, all versions stay: it can be written by hand.
    """
    for path in folder.glob("*" + UNFINISHED_SUFFIX + "*"):
        path.unlink()
    versions = _versions(folder)
    pointed = None
    with contextlib.suppress(LakeError):  # a damaged one is replaced by the next version
        pointed = _pointed(folder)
    if pointed is None:
        return max(map(_number, versions), default=0)
    last = _number(pointed[0])
    for path in versions:
        if _number(path) > last:
            path.unlink()
    return last


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size <= _SMALL_BYTES
    except FileNotFoundError:  # the view names it
        return False


def _all_of(files: Sequence[Path]) -> str:
    """The query for all rows of versions."""
    paths = ", ".join(quoted(glob_escaped(path)) for path in files)
    return f"SELECT * FROM read_duckdb([{paths}], table_name = 'data', hive_partitioning = false)"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
