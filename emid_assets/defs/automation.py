"""What starts runs without a person: the look at the media folder, the changed data, the nightly rebuild.

All three are off until they are switched on, by one click each. What they may start is said by
`conditions`; whether a folder has come to rest, by `media.folder_changes`.
"""

import time
import uuid
import warnings
from collections.abc import Callable

import dagster as dg

from emid_assets.media.folder_changes import Watch, in_words, judge, look_at
from emid_assets.media.limits import MediaFolderError
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.orchestration.stages import device_tags
from emid_assets.settings import Operations
from emid_assets.store.lake import WHOLE_TABLE, Lake

SETTLE_S = 25.0
"""How long a folder must stay as it is: less than two looks of the sensor, more than a slow copy's pause."""

LOOK_EVERY_S = 30
NO_RUN_RETRY = {"dagster/max_retries": "0"}
"""The conditions retry once; a crashed run that the instance retried too would be run three times."""

UNFINISHED = [
    status
    for status in dg.DagsterRunStatus
    if status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
]
REBUILD_TAG = "emid/rebuild"


@dg.sensor(
    job_name="inventory",
    minimum_interval_seconds=LOOK_EVERY_S,
    description="Looks whether files in the media folder are new, changed or gone, waits until nothing "
    "moves there any more, and asks for a new inventory. The sensor changed_data builds what follows.",
)
def media_folder(
    context: dg.SensorEvaluationContext, settings: SettingsResource
) -> dg.SensorResult | dg.SkipReason:
    """Ask for one inventory after the folder has changed and come to rest."""
    try:
        look = look_at(settings.media_folder)
    except (MediaFolderError, OSError) as error:
        # Without the folder nothing is known of its files: they are not gone, and no row is removed.
        context.update_cursor("")
        return dg.SkipReason(f"{error}; nothing is asked for until it is back")
    running = dg.RunsFilter(job_name="inventory", statuses=UNFINISHED)
    if context.instance.get_runs_count(running):
        return dg.SkipReason("an inventory is under way")
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
    """The sensor that asks the conditions, in the code server, since one of them is our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            "changed_data",
            target=dg.AssetSelection.all(),
            use_user_code_server=True,
            emit_backfills=False,
            minimum_interval_seconds=LOOK_EVERY_S,
            run_tags={**NO_RUN_RETRY, **device_tags(operations)},  # any of its runs may embed
            description="Builds what is missing and what was made from data that has changed since, stage by "
            "stage, and tries a failed partition once more.",
        )


def rebuild_job(definitions: Callable[[], dg.Definitions], operations: Operations) -> dg.JobDefinition:
    """A job that asks for everything in `definitions` to be built again: a backfill of all partitions."""

    @dg.op(name="request_backfill", description="Asks for a backfill of all assets, unless one is under way.")
    def request_backfill(context: dg.OpExecutionContext) -> None:
        from emid_assets.runs.dagster_internals import (
            BULK_ACTION_TERMINAL_STATUSES,
            AssetGraphSubset,
            PartitionBackfill,
        )

        for earlier in context.instance.get_backfills():
            if REBUILD_TAG in earlier.tags and earlier.status not in BULK_ACTION_TERMINAL_STATUSES:
                context.log.warning(f"rebuild {earlier.backfill_id} is still under way: nothing is asked for")
                return
        graph = definitions().resolve_asset_graph()
        backfill = PartitionBackfill.from_asset_graph_subset(
            backfill_id=uuid.uuid4().hex[:8],
            backfill_timestamp=time.time(),
            tags={REBUILD_TAG: context.run_id, **device_tags(operations)},
            dynamic_partitions_store=context.instance,
            asset_graph_subset=AssetGraphSubset.all(graph),
            title="Rebuild",
            description="Everything, as emid build does it.",
            run_config=None,
        )
        context.instance.add_backfill(backfill)
        context.log.info(f"rebuild {backfill.backfill_id} is asked for: see Runs, Backfills")

    @dg.job(
        name="rebuild",
        description="Builds everything again, stage by stage: asks for a backfill of all assets.",
        executor_def=dg.in_process_executor,
    )
    def rebuild() -> None:
        request_backfill()

    return rebuild


def nightly_rebuild(job: dg.JobDefinition, operations: Operations) -> dg.ScheduleDefinition:
    """The schedule of the full rebuild, off until it is switched on."""
    return dg.ScheduleDefinition(
        name="nightly_rebuild",
        job=job,
        cron_schedule=operations.rebuild_cron,
        execution_timezone=operations.rebuild_time_zone,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Builds everything again at the time of EMID_REBUILD_CRON.",
    )
