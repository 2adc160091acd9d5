"""What starts runs automatically: a sensor for the media folder, one for changed data, the nightly rebuild.

All three are off until they are switched on, with one click each. `orchestration.conditions` defines when an
asset is built; `media.folder_changes` decides whether a folder has stopped changing.
"""

import os
import subprocess
import sys
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from emid_assets.media.folder_changes import Watch, in_words, judge, look_at
from emid_assets.media.limits import MediaFolderError
from emid_assets.orchestration.old_runs import forget_old_runs
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.stages import device_tags
from emid_assets.runs.instance import environment_of
from emid_assets.runs.run_tags import tell_of_run
from emid_assets.settings import Operations, load_operations
from emid_assets.store.lake import GRACE_S, WHOLE_TABLE, Lake
from emid_assets.store.layout import STUDY_FOLDER, STUDY_PAGE_FOLDER

SETTLE_S = 25.0
"""How long a folder must stay unchanged: less than two sensor ticks, more than a pause in a slow copy."""

LOOK_EVERY_S = 30
NO_RUN_RETRY = {"dagster/max_retries": "0"}
"""The conditions retry once; if the instance retried a crashed run too, it would run three times."""

UNFINISHED = [
    status
    for status in dg.DagsterRunStatus
    if status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]
LINES_OF_FAILURE = 20
REBUILD_TAG = "emid/rebuild"


@dg.sensor(
    job_name="inventory",
    minimum_interval_seconds=LOOK_EVERY_S,
    description="Detects new, changed and removed files in the media folder, waits until the folder has "
    "stopped changing, and requests a new inventory. The sensor changed_data builds what depends on it.",
)
def media_folder(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> dg.SensorResult | dg.SkipReason:
    """Request one inventory once the folder has changed and has stopped changing."""
    try:
        look = look_at(settings.media_folder)
    except (MediaFolderError, OSError) as error:
        # A missing folder says nothing about its files: they do not count as removed.
        context.update_cursor("")
        return dg.SkipReason(f"{error}; no run is requested until it is back")
    running = dg.RunsFilter(job_name="inventory", statuses=UNFINISHED)
    if context.instance.get_runs_count(running):
        return dg.SkipReason("an inventory is running")
    before = Watch.from_text(context.cursor)
    watch, verdict = judge(before, look.digest, time.time(), SETTLE_S)
    context.update_cursor(watch.to_text())
    if verdict != "changed":
        return dg.SkipReason(f"{len(look.files)} files, {verdict}")
    lake = Lake(settings.lake_folder)
    known = []
    if lake.current("media_inventory", WHOLE_TABLE):
        inventory = lake.read("media_inventory", columns=["file", "size_bytes", "modified_ns"])
        known = inventory.unique().rows()
    difference = in_words(look, known)
    context.log.info(f"{settings.media_folder}: {difference}")
    request = dg.RunRequest(
        run_key=f"{watch.digest}@{watch.since_s}", tags={**NO_RUN_RETRY, "emid/media": difference}
    )
    return dg.SensorResult(run_requests=[request])


def changed_data(operations: Operations) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions, in the code server since one of them is our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            "changed_data",
            target=dg.AssetSelection.all(),
            use_user_code_server=True,
            emit_backfills=False,
            minimum_interval_seconds=LOOK_EVERY_S,
            run_tags={**NO_RUN_RETRY, **device_tags(operations)},  # any of its runs may embed
            description="Builds partitions that are missing or whose inputs have changed, stage by stage, "
            "and retries a failed partition once.",
        )


def rebuild_job(definitions: Callable[[], dg.Definitions], operations: Operations) -> dg.JobDefinition:
    """A job that rebuilds everything in `definitions`: it requests a backfill of all partitions."""

    @dg.op(name="request_backfill", description="Requests a backfill of all assets, unless one is running.")
    def request_backfill(context: dg.OpExecutionContext) -> None:
        from emid_assets.runs.dagster_internals import (
            BULK_ACTION_TERMINAL_STATUSES,
            AssetGraphSubset,
            PartitionBackfill,
        )

        for earlier in context.instance.get_backfills():
            if REBUILD_TAG in earlier.tags and earlier.status not in BULK_ACTION_TERMINAL_STATUSES:
                context.log.warning(f"rebuild {earlier.backfill_id} is still running: nothing is requested")
                return
        graph = definitions().resolve_asset_graph()
        backfill = PartitionBackfill.from_asset_graph_subset(
            backfill_id=uuid.uuid4().hex[:8],
            backfill_timestamp=time.time(),
            tags={REBUILD_TAG: context.run_id, **device_tags(operations)},
            dynamic_partitions_store=context.instance,
            asset_graph_subset=AssetGraphSubset.all(graph),
            title="Rebuild",
            description="Rebuilds everything, as emid build does.",
            run_config=None,
        )
        context.instance.add_backfill(backfill)
        context.log.info(f"rebuild {backfill.backfill_id} is requested: see Runs, Backfills")

    @dg.job(
        name="rebuild",
        description="Rebuilds everything, stage by stage: requests a backfill of all assets.",
        executor_def=dg.in_process_executor,
    )
    def rebuild() -> None:
        request_backfill()

    return rebuild


@dg.op(name="build_what_is_not_current")
def _build(context: dg.OpExecutionContext, settings: SettingsResource) -> None:
    """Runs `emid build` with the settings of this run, on this instance."""
    tell_of_run(context.instance, context.run_id, settings.lake_folder)
    environment = os.environ | environment_of(settings, Path(context.instance.root_directory))
    command = [sys.executable, "-m", "emid_assets", "build"]
    said = deque[str](maxlen=LINES_OF_FAILURE)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as build:
        try:
            for line in build.stdout or ():
                said.append(line.rstrip())
                context.log.info(line.rstrip())
        except BaseException:  # the run was terminated
            build.terminate()
            raise
    if build.returncode:
        raise dg.Failure("\n".join(said), allow_retries=False)


@dg.job(
    name="update",
    description="Builds what is not current, as `emid build` does: each stage has runs of its own.",
    executor_def=dg.in_process_executor,
)
def update_job() -> None:
    """Builds what is not current."""
    _build()


@dg.op(name="forget_what_is_old")
def _forget(context: dg.OpExecutionContext, settings: SettingsResource) -> None:
    """Deletes old runs with their logs, and versions and media of a study that nobody reads any more."""
    from emid_assets.study.page import forget_media

    lake = Lake(settings.lake_folder)
    tell_of_run(context.instance, context.run_id, lake.root)
    runs = forget_old_runs(context.instance, lake, load_operations().keep_runs)
    versions = lake.collect_garbage(GRACE_S)
    media = forget_media(lake.root / STUDY_FOLDER / STUDY_PAGE_FOLDER, GRACE_S)
    context.log.info(f"deleted {runs} runs, and {len(versions) + media} files of the lake")


@dg.job(
    name="clean_up",
    description="Deletes the records of old runs (EMID_KEEP_RUNS), and superseded versions after a day.",
    executor_def=dg.in_process_executor,
)
def clean_up_job() -> None:
    """Deletes what is old."""
    _forget()


clean_up_schedule = dg.ScheduleDefinition(
    name="hourly_clean_up",
    job=clean_up_job,
    cron_schedule="41 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Keeps Dagster's records and the lake from growing: deletes old runs and old versions.",
)


def nightly_rebuild(operations: Operations) -> dg.ScheduleDefinition:
    """The schedule of the job `update`, off until it is switched on."""
    return dg.ScheduleDefinition(
        name="nightly_rebuild",
        job=update_job,
        cron_schedule=operations.rebuild_cron,
        execution_timezone=operations.rebuild_time_zone,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Builds what is not current at the time that EMID_REBUILD_CRON sets; nothing if nothing "
        "has changed. The job `rebuild` builds everything.",
    )
