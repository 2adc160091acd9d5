"""The run-failure alert: which asset and partition failed and why, in one line, told to people.

Belongs here: reading that from a run's events. How it is sent is `emid_assets.health.alert_channels`'s.
"""

import dagster as dg
from dagster import DagsterInstance, DagsterRun

from emid_assets.health.alert_channels import channels, deliver, secrets_of
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.runs.failures import first_error, message_of, one_line
from emid_assets.settings import load_operations

SHOWN_ASSETS = 3
_PARTITION = "dagster/partition"
_WILL_RETRY = "dagster/will_retry"
_FROM_OUTSIDE = "marked as failed from outside"
"""In Dagster's message where whoever ended a run gave no reason, but told one just before."""


def alert_line(instance: DagsterInstance, run: DagsterRun) -> str:
    """Such as `music_embeddings [sad] failed: MemoryError: … (job embed_music, run 1f2e3d4c)`.

    Where no step had the time to fail, since its process was killed, the asset is the one that was
    being built.
    """
    kinds = {
        dg.DagsterEventType.STEP_START,
        dg.DagsterEventType.STEP_SUCCESS,
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.ENGINE_EVENT,
        dg.DagsterEventType.RUN_FAILURE,
    }
    failed: list[str] = []
    begun: dict[str, None] = {}
    reasons: list[str] = []
    seen_by_others = ""
    for entry in instance.all_logs(run.run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        step = event.step_key or ""
        if event.event_type == dg.DagsterEventType.STEP_START:
            begun[step] = None
        elif event.event_type == dg.DagsterEventType.STEP_SUCCESS:
            begun.pop(step, None)
        elif event.is_step_failure:
            failed.append(step)
            reasons.append(message_of(first_error([event])))
        elif event.event_type == dg.DagsterEventType.ENGINE_EVENT:
            # What the run says of its own process is no reason; what a watcher says of it is.
            seen_by_others = (
                seen_by_others if "pid" in event.engine_event_data.metadata else event.message or ""
            )
        else:
            reasons.append(_reason_of_the_run(event, seen_by_others))
    names = failed or list(begun) or [run.job_name]
    more = f" and {len(names) - SHOWN_ASSETS} more" if len(names) > SHOWN_ASSETS else ""
    partition = run.tags.get(_PARTITION)
    where = ", ".join(names[:SHOWN_ASSETS]) + more + (f" [{partition}]" if partition else "")
    # Only a run of a code server can be: one of a terminal has nobody to start it.
    will_retry = run.tags.get(_WILL_RETRY) == "true" and run.remote_job_origin is not None
    again = "; it is tried again" if will_retry else ""
    why = one_line(reasons[0] if reasons else "the run failed")
    return f"{one_line(where)} failed: {why} (job {run.job_name}, run {run.run_id[:8]}{again})"


def _reason_of_the_run(event: dg.DagsterEvent, seen_by_others: str) -> str:
    """Why a run ended of which no step had the time to fail."""
    # None where it was not the run itself that reported its end.
    error = event.job_failure_data.error if event.event_specific_data else None
    if error is not None:
        return message_of(error)
    message = event.message or ""
    return seen_by_others or message if _FROM_OUTSIDE in message or not message else message


@dg.run_failure_sensor(
    name="alert_on_failure",
    monitor_all_code_locations=True,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of every failed run in one line: in the lake's alerts.log, and by webhook or mail "
    "where EMID_ALERT_WEBHOOK or EMID_ALERT_SMTP and EMID_ALERT_MAIL_TO are set.",
)
def alert_on_failure(context: dg.RunFailureSensorContext, settings: SettingsResource) -> None:
    """Tell of a failed run; whatever goes wrong here is a line in this sensor's own log."""
    try:
        operations = load_operations()
        line = alert_line(context.instance, context.dagster_run)
        undelivered = deliver(line, channels(operations, settings.lake_folder), secrets_of(operations))
    except Exception as error:  # an alert must not add a failure of its own
        context.log.error(f"no alert could be made for run {context.dagster_run.run_id}: {error}")
        return
    context.log.info(line)
    for channel, why in undelivered.items():
        context.log.error(f"the alert could not be sent by {channel}: {why}")
