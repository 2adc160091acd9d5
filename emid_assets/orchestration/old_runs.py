"""Forgetting old runs: their records, events, captured logs and pictures, so that an instance does not grow.

Belongs here: which runs are needed, and deleting the others. `store.lake` deletes old versions of tables.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from dagster import DagsterEventType, DagsterInstance

from emid_assets.health.verdict import RUN_ID
from emid_assets.orchestration.pictures import FOLDER as PICTURES
from emid_assets.runs.run_tags import LAKE_TAG, name_of_lake
from emid_assets.store.lake import GRACE_S, Lake, Version

RUNS_AT_ONCE = 500
_OF_PICTURE = re.compile(r"/logs/pictures/([0-9a-f]+)/")


def all_runs(instance: DagsterInstance) -> Iterator[dg.RunRecord]:
    """All runs, newest first."""
    cursor = None
    while records := instance.get_run_records(limit=RUNS_AT_ONCE, cursor=cursor):
        yield from records
        cursor = records[-1].dagster_run.run_id


def forget_old_runs(instance: DagsterInstance, lake: Lake, keep: int) -> int:
    """Delete runs that build this lake and have ended, except those still needed; returns how many.

    Needed are the newest `keep`; the newest of each partition of each job, or asset where assets were
    selected, and the newest that succeeded; and those that have built what is current.
    """
    own = name_of_lake(lake.root)
    builders = {
        version.metadata.get(RUN_ID)
        for version in lake.survey(lake.tables()).values()
        if isinstance(version, Version)
    }
    seen: set[tuple[str, ...]] = set()
    needed: list[str] = []
    old: list[str] = []
    for record in all_runs(instance):
        run = record.dagster_run
        if not run.is_finished or run.tags.get(LAKE_TAG, own) != own:
            continue
        selected = [key.to_user_string() for key in run.asset_selection or ()]
        endings = ("ended", "succeeded") if run.is_success else ("ended",)
        partition = run.tags.get("dagster/partition", "")
        newest = {(what, partition, end) for what in selected or [run.job_name] for end in endings} - seen
        seen |= newest
        is_needed = len(needed) < keep or newest or run.run_id in builders
        (needed if is_needed else old).append(run.run_id)
    for run_id in old:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    if old:
        from emid_assets.runs.records import delete_checks  # with Dagster's storages

        delete_checks(instance, old)
        _forget_pictures(instance, needed)
    return len(old)


def _forget_pictures(instance: DagsterInstance, runs: list[str]) -> None:
    """Delete the pictures that no metadata of these runs shows."""
    from emid_assets.runs.dagster_internals import LocalComputeLogManager

    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return
    folder = Path(str(manager.get_captured_local_path([PICTURES, "any"], "png"))).parent
    before = time.time() - GRACE_S  # a run under way may have just made one
    old = [path for path in folder.glob("*") if path.stat().st_mtime < before]
    of_type = DagsterEventType.ASSET_MATERIALIZATION
    shown = {
        found
        for run_id in (runs if old else ())
        for entry in instance.all_logs(run_id, of_type=of_type)
        if entry.dagster_event is not None
        for value in entry.dagster_event.step_materialization_data.materialization.metadata.values()
        if isinstance(value, dg.MarkdownMetadataValue)
        for found in _OF_PICTURE.findall(value.value or "")
    }
    for path in old:
        if path.stem not in shown:
            path.unlink(missing_ok=True)
