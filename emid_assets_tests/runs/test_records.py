"""The records of runs and events, as several processes write, read and watch them."""

import os
import shutil
import signal
from pathlib import Path

import dagster as dg
import pytest

from emid_assets.runs.instance import SHIPPED_INSTANCE
from emid_assets_tests.failures.tiny import processes
from emid_assets_tests.web import wait_for


@dg.asset
def pairs() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"rows": 3})


JOB = dg.Definitions(assets=[pairs], jobs=[dg.define_asset_job("align")]).resolve_job_def("align")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "lake, 100 % of it" / "dagster"
    home.mkdir(parents=True)
    shutil.copy(SHIPPED_INSTANCE, home / "dagster.yaml")
    return home


def opened(home: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(home))


def run_and_be_killed(home: Path) -> None:
    JOB.execute_in_process(instance=opened(home))
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_that_open_empty_records_at_once_and_are_killed_lose_no_run(home: Path) -> None:
    with opened(home):
        pass
    shutil.rmtree(home / "history")  # and not the schedules, whose database is Dagster's own
    children = [processes.Process(target=run_and_be_killed, args=(home,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert {child.exitcode for child in children} == {-signal.SIGKILL}
    with opened(home) as instance:
        runs = instance.get_runs()
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 4
        for run in runs:
            events = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
            assert events[-1] is not None
            assert events[-1].event_type == dg.DagsterEventType.RUN_SUCCESS
        found = instance.fetch_materializations(pairs.key, limit=10).records
    assert {record.run_id for record in found} == {run.run_id for run in runs}
    assert {path.name for path in (home / "history").glob("*.db")} == {"runs.db", "event_log.db"}


def test_records_move_with_their_folder(home: Path, tmp_path: Path) -> None:
    with opened(home) as instance:
        run_id = JOB.execute_in_process(instance=instance).run_id
    moved = shutil.move(home.parent, tmp_path / "elsewhere") / "dagster"
    with opened(moved) as instance:
        assert instance.get_run_by_id(run_id).is_success  # type: ignore[union-attr]
        assert instance.all_logs(run_id)
        JOB.execute_in_process(instance=instance)
        assert instance.get_runs_count() == 2
    assert not home.exists()


def test_the_web_ui_hears_of_events_as_another_process_stores_them(home: Path) -> None:
    heard: list[str] = []
    with opened(home) as build, opened(home) as web_ui:
        run = build.create_run_for_job(JOB)
        web_ui.watch_event_logs(run.run_id, None, lambda entry, cursor: heard.append(entry.message))
        build.report_engine_event("half of it is done", run)
        wait_for(lambda: any("half of it" in message for message in heard), "the event", within_s=20)
