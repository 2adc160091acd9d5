"""What a year of an unattended pipeline leaves behind: a simulated one, with the records of real runs.

    make demo
    python benchmarks/year.py --lake .emid/demo                  # some minutes; --days 60 for two months
    python benchmarks/year.py --lake .emid/demo --json year.json

Copies the lake and repeats its runs under new ids, with their events, logs and tables: each hour a clean-up,
each night an update, each week a rebuild of every partition, and on `--study-days` days a run for each
30 s of `--study-hours` hours. After each day, and each hour of a study, old runs and versions are deleted as
the clean-up does. Of the ticks, those of the last days are made up: by then, the daemon has deleted the older
ones. A row is a day of the year: bytes of records, logs, ticks and lake, and the runs that are kept.
TMPDIR=/dev/shm saves the waits for the disk.
"""

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus

from emid_assets.definitions import build_definitions
from emid_assets.health.verdict import RUN_ID
from emid_assets.orchestration.old_runs import all_runs, forget_old_runs
from emid_assets.runs.instance import RECORDS_FOLDER
from emid_assets.settings import load_operations
from emid_assets.store.lake import Lake, Version

TICKS_A_DAY = {"media_folder": 2880, "changed_data": 2880, "alert_on_failure": 8640, "dead_runs": 1440}
"""Sensor → how often it is asked at its interval."""

DAYS_OF_TICKS = 2  # more than dagster.yaml keeps of those that request nothing
RUNS_OF_AN_HOUR = 120
"""Of a live study: one for each 30 s."""

DATABASES = ("runs.db", "event_log.db")
REPORTED = 30


Rows = dict[tuple[str, str], tuple[str, list[tuple[Any, ...]]]]
"""(Database, table) → the statement that inserts rows, and the rows of a run."""


@dataclass
class Year:
    """An instance and a lake that age.

    Attributes:
        instance: where runs are recorded.
        lake: what they build.
        templates: the records of real runs by kind; the rebuild's are those that built the lake.
    """

    instance: dg.DagsterInstance
    lake: Lake
    templates: dict[str, dict[str, Rows]] = field(default_factory=dict)

    def learn(self, media: Path) -> None:
        """Take the instance's runs as templates, after one real clean-up."""
        options = {"media": str(media), "lake": str(self.lake.root)}
        built = [record.dagster_run for record in all_runs(self.instance)]
        definitions = build_definitions(**options)
        cleaned = definitions.resolve_job_def("clean_up").execute_in_process(instance=self.instance)
        of_study = [run.run_id for run in built if run.job_name == "study"][:1]
        kinds = {"clean_up": [cleaned.run_id], "rebuild": [run.run_id for run in built], "study": of_study}
        self.templates = {kind: {run: self._rows(run) for run in runs} for kind, runs in kinds.items()}

    def _rows(self, run_id: str) -> Rows:
        found: Rows = {}
        for database in DATABASES:
            with self._opened(database) as records:
                tables = records.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables:
                    names = [
                        row[1] for row in records.execute(f"PRAGMA table_info({table})") if row[1] != "id"
                    ]
                    if "run_id" in names and table != "concurrency_slots":
                        listed = ", ".join(names)
                        rows = records.execute(f"SELECT {listed} FROM {table} WHERE run_id = ?", [run_id])
                        marks = ", ".join("?" * len(names))
                        insert = f"INSERT INTO {table} ({listed}) VALUES ({marks})"
                        found[database, table] = insert, rows.fetchall()
        return found

    @contextlib.contextmanager
    def _opened(self, database: str) -> Iterator[sqlite3.Connection]:
        file = Path(self.instance.root_directory) / RECORDS_FOLDER / database
        with contextlib.closing(sqlite3.connect(file, timeout=60)) as connection, connection:
            yield connection

    def repeat(self, runs: Mapping[str, Rows], times: int = 1) -> dict[str, str]:
        """The same runs once more, or several times: run → the last one with its records and logs."""
        logs, new = Path(self.instance.storage_directory()), {}
        for database in DATABASES:
            with self._opened(database) as records:
                for run, rows in runs.items():
                    for number in range(times):
                        again = new.setdefault((run, number), str(uuid4()))
                        for (of, _), (insert, values) in rows.items():
                            if of == database:
                                records.executemany(insert, [renamed(row, run, again) for row in values])
        for (run, _), again in new.items():
            if (logs / run).is_dir():
                shutil.copytree(logs / run, logs / again)
        return {run: again for (run, _), again in new.items()}

    def rebuild(self) -> None:
        """Every partition, each by the run that built it."""
        new = self.repeat(self.templates["rebuild"])
        for (table, partition), version in self.lake.survey(self.lake.tables()).items():
            if isinstance(version, Version):
                builder = self._origin(version, new)
                frame = self.lake.read(table, [partition])
                self.lake.write(
                    table, partition, frame, {**version.metadata, RUN_ID: new[builder], "of": builder}
                )
        self.lake.rebuild_catalogue()

    @staticmethod
    def _origin(version: Version, new: dict[str, str]) -> str:
        named = str(version.metadata.get("of") or version.metadata.get(RUN_ID))
        return named if named in new else next(iter(new))

    def pass_a_day(self, number: int, study_runs: int) -> None:
        """One day of the year."""
        self.repeat(self.templates["clean_up"], 25)  # each hour, and the nightly update
        if number % 7 == 0:
            self.rebuild()
        for first in range(0, study_runs, RUNS_OF_AN_HOUR):
            self.repeat(self.templates["study"], min(RUNS_OF_AN_HOUR, study_runs - first))
            self.clean_up()
        self.clean_up()

    def clean_up(self) -> None:
        """What the hourly clean-up does."""
        forget_old_runs(self.instance, self.lake, load_operations().keep_runs)
        self.lake.collect_garbage(0)

    def tick(self, now: float) -> None:
        """The sensors of one day, and what the daemon deletes of their ticks."""
        days = self.instance.get_tick_retention_settings(InstigatorType.SENSOR)
        for name, count in TICKS_A_DAY.items():
            for number in range(count):
                at = now + number * 86_400 / count
                self.instance.create_tick(
                    TickData(
                        name, name, InstigatorType.SENSOR, TickStatus.SKIPPED, at, end_timestamp=at + 0.1,
                        skip_reason="the process of every running run is alive", selector_id=name,
                        log_key=["emid_assets", name, str(at)],
                    )
                )  # fmt: skip
            for status, kept in days.items():
                if kept >= 0:
                    before = now - kept * 86_400
                    self.instance.purge_ticks(name, name, before, [status])

    def sizes(self) -> dict[str, int]:
        home = Path(self.instance.root_directory)
        return {
            "runs_kept": self.instance.get_runs_count(),
            "records_bytes": bytes_in(home / "history"),
            "logs_bytes": bytes_in(home / "storage"),
            "ticks_bytes": bytes_in(home / "schedules"),
            "lake_bytes": bytes_in(self.lake.root / "tables") + bytes_in(self.lake.root / ".catalogues"),
        }


def renamed(row: tuple[Any, ...], run: str, again: str) -> tuple[Any, ...]:
    """A record of one run as one of another."""
    return tuple(value.replace(run, again) if isinstance(value, str) else value for value in row)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def live_through(year: Year, days: int, study_days: int, study_runs: int) -> Iterator[dict[str, Any]]:
    """The sizes at each month's end."""
    now = time.time()
    for number in range(1, days + 1):
        year.pass_a_day(number, study_runs if number <= study_days else 0)
        if number > days - DAYS_OF_TICKS:
            year.tick(now + number * 86_400)
        if number % REPORTED == 0 or number == days:
            yield {"name": f"ours day {number}", **year.sizes()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="no effect: there are no peers to skip")
    parser.add_argument("--lake", type=Path, required=True, help="a lake that was built; it is copied")
    parser.add_argument("--media", type=Path, default=Path("emid_assets/sample"), help="its media folder")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--study-days", type=int, default=10, help="days with a live study")
    parser.add_argument("--study-hours", type=float, default=8)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lake"
        shutil.copytree(given.lake, root, symlinks=True)
        os.environ["DAGSTER_HOME"] = str(root / "dagster")
        with dg.DagsterInstance.from_config(str(root / "dagster")) as instance:
            year = Year(instance, Lake(root))
            year.lake.settle()
            year.learn(given.media)
            print(f"{len(year.templates['rebuild'])} runs of a rebuild")
            for row in live_through(
                year, given.days, given.study_days, int(given.study_hours * RUNS_OF_AN_HOUR)
            ):
                rows.append(row)
                print(json.dumps(row), flush=True)
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
