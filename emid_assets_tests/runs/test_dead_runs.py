"""A run whose process is really killed: it is seen to have failed, and people are told."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import filelock
import pytest
from dagster._core.events import EngineEventData

from emid_assets.definitions import build_definitions
from emid_assets.runs.dead_runs import end_dead_runs
from emid_assets.runs.processes import name_of_this_process
from emid_assets.runs.run_tags import LAKE_TAG, PROCESS_TAG
from emid_assets_tests.conftest import REPOSITORY, clean_environment
from emid_assets_tests.defs.tiny_media import write_media
from emid_assets_tests.health.test_alert_channels import TOKEN, Webhook
from emid_assets_tests.web import wait_for

BUILD = """
from dagster import DagsterInstance
from emid_assets.definitions import build_definitions
from emid_assets.runs.processes import name_of_this_process
from emid_assets.runs.run_tags import PROCESS_TAG
with DagsterInstance.get() as instance:
    job = build_definitions().resolve_job_def("inventory")
    job.execute_in_process(instance=instance, tags={PROCESS_TAG: name_of_this_process()})
"""


def test_people_are_told_of_a_killed_run(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = Webhook()
    webhook.statuses = [500]
    media, lake = write_media(tmp_path / "media"), tmp_path / "lake"
    monkeypatch.setenv("EMID_ALERT_WEBHOOK", webhook.url)
    repository = build_definitions(media=str(media), lake=str(lake)).get_repository_def()
    sensor = repository.get_sensor_def("alert_on_failure")
    cursor = None

    def tick() -> None:
        nonlocal cursor
        with dg.build_sensor_context(
            instance, cursor, repository_def=repository, resources=repository.get_top_level_resources()
        ) as context:
            result = sensor.evaluate_tick(context)
        cursor = result.cursor
        assert not any(reaction.error for reaction in result.dagster_run_reactions)

    tick()
    assert not webhook.posted
    # A run that is to write the inventory waits for its partition's lock: it is killed within its step.
    (lake / "tables" / "media_inventory" / "all").mkdir(parents=True)
    with filelock.FileLock(lake / "tables" / "media_inventory" / "all" / ".lock"):
        environment = clean_environment() | {
            "PYTHONPATH": str(REPOSITORY), "DAGSTER_HOME": str(tmp_path / "home"),
            "EMID_MEDIA": str(media), "EMID_LAKE": str(lake), "EMID_WORKERS": "0",
        }  # fmt: skip
        build = subprocess.Popen([sys.executable, "-c", BUILD], env=environment)
        (run,) = wait_for(
            lambda: instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])), "the run"
        )
        of_type = dg.DagsterEventType.STEP_START
        wait_for(lambda: instance.all_logs(run.run_id, of_type=of_type), "the run's step")
        assert end_dead_runs(instance) == []
        os.kill(build.pid, signal.SIGKILL)
        build.wait(60)
    assert end_dead_runs(instance) == [run.run_id]
    tick()
    line = webhook.posted[-1][2]["text"].splitlines()[1]  # in a block of code
    assert line.startswith("media_inventory failed: ")
    assert "process" in line
    assert f"(job inventory, run {run.run_id[:8]}" in line
    assert len(webhook.posted) == 2  # the first was refused
    assert line in (lake / "alerts.log").read_text()
    tick()
    assert len(webhook.posted) == 2
    assert not any(TOKEN in str(entry) for entry in instance.all_logs(run.run_id))
    webhook.server.shutdown()
    webhook.server.server_close()


@dg.job
def collect() -> None:
    """A job whose runs are made up here."""


def a_process_that_is_gone() -> str:
    tell = "from emid_assets.runs.processes import name_of_this_process as name; print(name())"
    return subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, check=True
    ).stdout.strip()


def started(instance: dg.DagsterInstance, **arguments: Any) -> dg.DagsterRun:
    return instance.create_run_for_job(collect, status=dg.DagsterRunStatus.STARTED, **arguments)


def test_a_run_whose_process_was_killed_before_it_started_is_ended_and_one_that_waits_is_not(
    instance: dg.DagsterInstance,
) -> None:
    tags = {PROCESS_TAG: a_process_that_is_gone()}
    killed = instance.create_run_for_job(collect, status=dg.DagsterRunStatus.NOT_STARTED, tags=tags)
    instance.create_run_for_job(collect, status=dg.DagsterRunStatus.NOT_STARTED)  # a launcher will start it
    assert end_dead_runs(instance) == [killed.run_id]


def test_a_run_that_another_machine_launched_over_a_socket_is_left_alone(
    instance: dg.DagsterInstance,
) -> None:
    """Its process id is one of that machine, and on this one it may well be nobody's."""
    gone = int(a_process_that_is_gone().split()[3])
    run = started(instance, tags={"dagster/grpc_info": json.dumps({"socket": "a file of that machine"})})
    instance.report_engine_event(
        "Executing in a subprocess", run, EngineEventData({"pid": dg.MetadataValue.text(str(gone))})
    )
    assert end_dead_runs(instance) == []
    instance.add_run_tags(run.run_id, {PROCESS_TAG: a_process_that_is_gone()})  # it has started here
    assert end_dead_runs(instance) == [run.run_id]


def test_a_run_that_repeats_a_dead_one_is_judged_by_its_own_process(instance: dg.DagsterInstance) -> None:
    tags = {PROCESS_TAG: a_process_that_is_gone()}
    first = started(instance, tags=tags)
    again = started(instance, tags=tags, parent_run_id=first.run_id, root_run_id=first.run_id)
    assert end_dead_runs(instance) == [first.run_id]
    instance.add_run_tags(again.run_id, {PROCESS_TAG: a_process_that_is_gone()})
    assert end_dead_runs(instance) == [again.run_id]


def test_a_launched_run_names_its_process_and_its_lake(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    media, lake = write_media(tmp_path / "media"), tmp_path / "lake"
    job = build_definitions(media=str(media), lake=str(lake), workers=0).resolve_job_def("inventory")
    result = job.execute_in_process(instance=instance)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[PROCESS_TAG] == name_of_this_process()
    assert run.tags[LAKE_TAG] == str(lake)
