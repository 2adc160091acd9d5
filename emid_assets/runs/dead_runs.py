"""Finding and ending runs whose process is gone."""

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from emid_assets.runs.processes import is_gone
from emid_assets.runs.run_tags import PROCESS_TAG

UNDER_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
EXECUTING = [status for status in UNDER_WAY if status != DagsterRunStatus.QUEUED]
"""What a process may be executing. One that is killed before it starts its run leaves it NOT_STARTED."""


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed, free their pool slots, and return their ids."""
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=EXECUTING)):
        if not process_is_gone(instance, run):
            continue
        instance.report_run_failed(
            run,
            "The process of this run is gone (killed, or the machine restarted). What it stored is kept.",
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run.run_id)
    return ended


def process_is_gone(instance: DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process of a run that Dagster counts as executing is gone. False if that is unknown.

    Unknown are runs of other machines, and runs that a launcher has not started yet: Dagster's own monitoring
    watches these.
    """
    name = run.tags.get(PROCESS_TAG)
    if name is None or not is_gone(name):
        return False
    # Dagster gives a re-executed run the tags of the first one, until it starts and has its own.
    first = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return first is None or first.tags.get(PROCESS_TAG) != name
