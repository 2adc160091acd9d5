"""The run-failure alert: one line that says which asset and partition failed and why.

Belongs here: reading that from a run's events. `emid_assets.health.alert_channels` sends it.
"""

import dagster as dg
from dagster import DagsterInstance, DagsterRun

from emid_assets.health.alert_channels import channels, deliver, secrets_of
from emid_assets.orchestration.resources import SettingsResource
from emid_assets.runs.failures import first_error, message_of, one_line
from emid_assets.settings import load_operations

SHOWN_ASSETS = 3
_PARTITION = "dagster/partition"
_ALERTED = "emid/alerted"
"""Tag of a run whose alert was sent: the run's id, since a retry inherits tags, and the channels."""
_WILL_RETRY = "dagster/will_retry"
_FROM_OUTSIDE = "marked as failed from outside"
"""Part of Dagster's message if the process that ended a run gave its reason only in an earlier event."""


def alert_line(instance: DagsterInstance, run: DagsterRun) -> str:
    """Such as `music_embeddings [sad] failed: MemoryError: … (job embed_music, run 1f2e3d4c)`.

    If no step could fail, since the process was killed, the line names the asset that was being built.
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
            # The run's messages about its own process give no reason; a monitor's messages do.
            seen_by_others = (
                seen_by_others if "pid" in event.engine_event_data.metadata else event.message or ""
            )
        else:
            reasons.append(_reason_of_the_run(event, seen_by_others))
    names = failed or list(begun) or [run.job_name]
    more = f" and {len(names) - SHOWN_ASSETS} more" if len(names) > SHOWN_ASSETS else ""
    partition = run.tags.get(_PARTITION)
    where = ", ".join(names[:SHOWN_ASSETS]) + more + (f" [{partition}]" if partition else "")
    # Only a run from a code server can be retried: nothing restarts one from a terminal.
    will_retry = run.tags.get(_WILL_RETRY) == "true" and run.remote_job_origin is not None
    again = "; it will be retried" if will_retry else ""
    why = one_line(reasons[0] if reasons else "the run failed")
    return f"{one_line(where)} failed: {why} (job {run.job_name}, run {run.run_id[:8]}{again})"


def _reason_of_the_run(event: dg.DagsterEvent, seen_by_others: str) -> str:
    """Why a run ended in which no step failed."""
    # None if another process reported the run's end.
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
    description="Reports every failed run in one line: in the lake's alerts.log, and by webhook or mail "
    "if EMID_ALERT_WEBHOOK or EMID_ALERT_SMTP and EMID_ALERT_MAIL_TO are set.",
)
def alert_on_failure(context: dg.RunFailureSensorContext, settings: SettingsResource) -> None:
    """Report a failed run; an error while doing so only goes to this sensor's own log."""
    instance, run = context.instance, context.dagster_run
    try:
        operations = load_operations()
        line = alert_line(instance, run)
        of_run, *delivered = run.tags.get(_ALERTED, "").split(" ")
        if of_run != run.run_id:
            delivered = []
        # A tick that ended before its last alert is repeated with all of them.
        to = {
            name: channel
            for name, channel in channels(operations, settings.lake_folder).items()
            if name not in delivered
        }

        def remember(channel: str) -> None:
            delivered.append(channel)
            instance.add_run_tags(run.run_id, {_ALERTED: " ".join([run.run_id, *delivered])})

        undelivered = deliver(line, to, secrets_of(operations), remember)
    except Exception as error:  # an alert must not cause another failure
        context.log.error(f"no alert could be made for run {run.run_id}: {error}")
        return
    context.log.info(line)
    for name, why in undelivered.items():
        context.log.error(f"the alert could not be sent by {name}: {why}")
