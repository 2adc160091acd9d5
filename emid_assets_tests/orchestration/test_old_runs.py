"""What an instance keeps of its runs: a year of a live study, compressed, in Dagster's own records."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from emid_assets.health.verdict import RUN_ID
from emid_assets.orchestration.old_runs import PICTURES, all_runs, forget_old_runs
from emid_assets.runs.instance import RECORDS_FOLDER
from emid_assets.runs.run_tags import LAKE_TAG, name_of_lake
from emid_assets.store.lake import Lake


@dg.job
def collect_answers() -> None:
    """A job whose runs are made up here."""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def run(instance: dg.DagsterInstance, lake: Lake, status: str = "SUCCESS", **tags: str) -> str:
    """A run that has ended, with events and captured logs."""
    tags = {LAKE_TAG: name_of_lake(lake.root), **tags}
    made = instance.create_run_for_job(collect_answers, status=dg.DagsterRunStatus[status], tags=tags)
    instance.report_engine_event("x" * 20_000, made, job_name=collect_answers.name)
    logs = Path(instance.storage_directory()) / made.run_id / "compute_logs"
    logs.mkdir(parents=True)
    (logs / "step.err").write_text("a line\n" * 100)
    return made.run_id


def ids(instance: dg.DagsterInstance) -> list[str]:
    return [record.dagster_run.run_id for record in all_runs(instance)]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_year_of_runs_takes_no_more_room_than_those_that_are_kept(
    instance: dg.DagsterInstance, lake: Lake
) -> None:
    home = Path(instance.root_directory)
    sizes = []
    for _ in range(6):
        for _ in range(40):
            run(instance, lake)
        forget_old_runs(instance, lake, keep=10)
        assert len(ids(instance)) == 10
        sizes.append(bytes_in(home))
    assert max(sizes) < 1.1 * sizes[1]
    assert len(list(Path(instance.storage_directory()).iterdir())) == 10


def test_what_is_needed_stays_the_newest_of_each_partition_and_who_built_what_is_current(
    instance: dg.DagsterInstance, lake: Lake, tmp_path: Path
) -> None:
    builder = run(instance, lake)
    lake.write("music_clips", "sad", pl.DataFrame({"value": [1]}), {RUN_ID: builder})
    succeeded = run(instance, lake, **{"dagster/partition": "calm"})
    run(instance, lake, "FAILURE", **{"dagster/partition": "calm"})
    failed = run(instance, lake, "FAILURE", **{"dagster/partition": "calm"})
    under_way = run(instance, lake, "STARTED")
    of_another_lake = run(instance, Lake(tmp_path / "other"))
    later = [run(instance, lake) for _ in range(5)]
    assert forget_old_runs(instance, lake, keep=3) == 3
    assert set(ids(instance)) == {builder, succeeded, failed, under_way, of_another_lake, *later[2:]}
    assert forget_old_runs(instance, lake, keep=3) == 0


def test_pictures_that_no_kept_run_shows_are_deleted_a_day_later(
    instance: dg.DagsterInstance, lake: Lake
) -> None:
    folder = Path(instance.storage_directory()) / PICTURES
    folder.mkdir(parents=True)
    for name, age in (("aa", 2), ("bb", 0), ("cc", 2)):
        (folder / f"{name}.png").write_bytes(b"png")
        os.utime(folder / f"{name}.png", (time.time() - age * 86_400,) * 2)

    @dg.asset
    def report() -> dg.MaterializeResult:  # type: ignore[type-arg]
        shown = dg.MetadataValue.md("![A figure](/logs/pictures/cc/png)")
        return dg.MaterializeResult(metadata={"figure": shown})

    assert dg.materialize([report], instance=instance).success
    for _ in range(3):
        run(instance, lake)
    assert forget_old_runs(instance, lake, keep=1) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["bb.png", "cc.png"]


def rows_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, int]:
    """Table of the records → rows of a run."""
    found = {}
    for file in (Path(instance.root_directory) / RECORDS_FOLDER).glob("*.db"):
        with contextlib.closing(sqlite3.connect(file)) as records:
            for (table,) in records.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                columns = [row[1] for row in records.execute(f"PRAGMA table_info({table})")]
                if "run_id" in columns:
                    query = f"SELECT count(*) FROM {table} WHERE run_id = ?"
                    found[table] = records.execute(query, [run_id]).fetchone()[0]
    return found


def test_nothing_of_a_deleted_run_stays_in_the_records(instance: dg.DagsterInstance, lake: Lake) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("is_fine", asset="report")])
    def report() -> dg.MaterializeResult:  # type: ignore[type-arg]
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])

    tags = {LAKE_TAG: name_of_lake(lake.root)}
    first = dg.materialize([report], instance=instance, tags=tags).run_id
    assert {table for table, rows in rows_of(instance, first).items() if rows} == {
        "runs", "run_tags", "event_logs", "asset_check_executions",
    }  # fmt: skip
    second = dg.materialize([report], instance=instance, tags=tags).run_id
    assert forget_old_runs(instance, lake, keep=1) == 1
    assert not any(rows_of(instance, first).values())
    assert rows_of(instance, second)["asset_check_executions"] == 1
