"""Dagster's records of runs and events in SQLite, at a fraction of the cost of its default storage.

Belongs here: how the two databases in an instance's `history/` are opened. `dagster.yaml` names these
classes. What the databases hold, and every query, is Dagster's own.

Dagster's default makes an event database for each run, and opens and closes a database for each event;
each close copies SQLite's log into the database and syncs it. Here all runs share one event database, and a
process keeps its connections open. A killed process loses nothing. If the machine itself stops, the last
records may be lost, but no table: the lake syncs these.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import filelock
import sqlalchemy
from dagster import DagsterInstance
from sqlalchemy.engine import Connection, Engine

from emid_assets.runs.dagster_internals import (
    ConfigurableClassData,
    ConsolidatedSqliteEventLogStorage,
    SqlEventLogStorage,
    SqliteRunStorage,
    SqlPollingEventWatcher,
)
from emid_assets.runs.instance import RECORDS_FOLDER

BUSY_S = 30
"""How long a process waits while another one writes."""

RUNS_AT_ONCE = 500
"""Parameters of one query: SQLite takes 999."""


def _engine(folder: Path, name: str) -> Engine:
    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create("sqlite", database=str(folder / name)), connect_args={"timeout": BUSY_S}
    )

    @sqlalchemy.event.listens_for(engine, "connect")
    def as_we_need_it(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")  # no sync for each record
        connection.execute("PRAGMA foreign_keys = ON")  # or a deleted run's tags stay

    return engine


class _InTheInstance:
    """A storage in the folder of its instance, whose connections stay open."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._kept: Engine | None = None

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """Nothing to configure: the records are in the instance's folder, which may be moved."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """As `dagster.yaml` asks for it."""
        return cls(inst_data)

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        """A transaction on a connection that stays open."""
        assert self._kept is not None
        with self._kept.connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        """Close the connections."""
        if self._kept is not None:
            self._kept.dispose()


class EventRecords(_InTheInstance, ConsolidatedSqliteEventLogStorage):
    """All runs' events in `history/event_log.db`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        _InTheInstance.__init__(self, inst_data)
        self._watcher: SqlPollingEventWatcher | None = None
        self._tables: set[str] = set()

    def register_instance(self, instance: DagsterInstance) -> None:
        """Open the records in the folder of `instance`; the first process to do so makes the tables."""
        folder = Path(instance.root_directory) / RECORDS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._kept = _engine(folder, "event_log.db")
        with filelock.FileLock(folder / "event_log.lock"):
            ConsolidatedSqliteEventLogStorage.__init__(self, str(folder), self._inst_data)
        super().register_instance(instance)

    _connect = _InTheInstance._begun

    def has_table(self, table_name: str) -> bool:
        """Whether there is a table; each materialization asks for several."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def watch(self, run_id: str, cursor: str | None, callback: Any) -> None:
        """Call `callback` for each new event of a run, as the web UI asks for.

        Asks the database, as Dagster does with PostgreSQL: a change of the file, for which its storages in
        SQLite wait, comes late where connections stay open.
        """
        self._watcher = self._watcher or SqlPollingEventWatcher(self)
        self._watcher.watch_run(run_id, cursor, callback)

    def end_watch(self, run_id: str, handler: Any) -> None:
        """Stop calling `handler`."""
        if self._watcher is not None:
            self._watcher.unwatch_run(run_id, handler)

    def dispose(self) -> None:
        """Close the connections."""
        if self._watcher is not None:
            self._watcher.close()
        super().dispose()


class RunRecords(_InTheInstance, SqliteRunStorage):
    """All runs in `history/runs.db`, the file that Dagster's default storage has."""

    def register_instance(self, instance: DagsterInstance) -> None:
        """Open the records in the folder of `instance`; the first process to do so makes the tables."""
        folder = Path(instance.root_directory) / RECORDS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._kept = _engine(folder, "runs.db")
        with filelock.FileLock(folder / "runs.lock"):
            SqliteRunStorage.from_local(str(folder))
        SqliteRunStorage.__init__(self, self._kept.url.render_as_string(), self._inst_data)
        super().register_instance(instance)

    connect = _InTheInstance._begun


def delete_checks(instance: DagsterInstance, runs: Sequence[str]) -> None:
    """Delete the results of runs' checks, which Dagster leaves when it deletes a run, in any SQL database."""
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        delete = sqlalchemy.text("DELETE FROM asset_check_executions WHERE run_id IN :runs")
        delete = delete.bindparams(sqlalchemy.bindparam("runs", expanding=True))
        with storage.index_connection() as connection:
            for start in range(0, len(runs), RUNS_AT_ONCE):
                connection.execute(delete, {"runs": list(runs[start : start + RUNS_AT_ONCE])})
