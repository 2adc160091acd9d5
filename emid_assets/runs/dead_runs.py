"""Finding and ending runs whose process is gone."""

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

from emid_assets.runs.processes import is_alive, is_gone

PROCESS_TAG = "emid/process"
"""Run tag with the name of the process that executes the run (see `emid_assets.runs.processes`)."""

UNDER_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
EXECUTING = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]


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
    """Whether the process of a run that Dagster counts as executing is gone. False if that is unknown."""
    if PROCESS_TAG in run.tags:
        return is_gone(run.tags[PROCESS_TAG])
    # Only a code server on this machine listens on a socket file.
    if '"socket"' not in run.tags.get("dagster/grpc_info", ""):
        return False
    pids = [
        int(str(entry.value))
        for record in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)
        if record.dagster_event is not None
        for name, entry in record.dagster_event.engine_event_data.metadata.items()
        if name == "pid"
    ]
    return bool(pids) and not is_alive(pids[-1])
