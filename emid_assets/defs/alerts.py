"""The run-failure alert: which asset and partition failed and why, in one line, told to people.

Belongs here: reading that from a run's events. How it is sent is `emid_assets.alerts`'s.
"""

import dagster as dg
from dagster import DagsterInstance, DagsterRun

from emid_assets.alerts import channels, deliver, one_line, secrets_of
from emid_assets.defs.failures import first_error, message_of
from emid_assets.defs.resources import SettingsResource
from emid_assets.settings import load_operations

SHOWN_ASSETS = 3
_PARTITION = "dagster/partition"
_WILL_RETRY = "dagster/will_retry"


def failure_line(instance: DagsterInstance, run: DagsterRun) -> str:
    """Such as `music_embeddings [sad] failed: MemoryError: … (job embed_music, run 1f2e3d4c)`.

    Where no step had the time to fail, since its process was killed, the asset is the one that was
    being built, or else all that were to be built.
    """
    kinds = {
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.DagsterEventType.ENGINE_EVENT,
        dg.DagsterEventType.RUN_FAILURE,
    }
    events = [
        entry.dagster_event
        for entry in instance.all_logs(run.run_id, of_type=kinds)
        if entry.dagster_event is not None
    ]
    failed: list[str] = []
    unbuilt: dict[str, None] = {}
    reasons: list[str] = []
    last_words = ""
    for event in events:
        asset = event.asset_key.to_user_string() if event.asset_key else ""
        if event.is_step_failure:
            failed.append(event.step_key or "")
            reasons.append(message_of(first_error([event])))
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            unbuilt[asset] = None
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            unbuilt.pop(asset, None)
        elif event.event_type == dg.DagsterEventType.ENGINE_EVENT:
            last_words = event.message or last_words
        else:
            error = event.job_failure_data.error
            last_words = message_of(error) if error else last_words or event.message or ""
    names = failed or list(unbuilt)[:1] or [run.job_name]
    more = f" and {len(names) - SHOWN_ASSETS} more" if len(names) > SHOWN_ASSETS else ""
    partition = run.tags.get(_PARTITION)
    where = ", ".join(names[:SHOWN_ASSETS]) + more + (f" [{partition}]" if partition else "")
    again = "; it is tried again" if run.tags.get(_WILL_RETRY) == "true" else ""
    why = one_line(reasons[0] if reasons else last_words or "the run failed")
    return f"{one_line(where)} failed: {why} (job {run.job_name}, run {run.run_id[:8]}{again})"


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
        line = failure_line(context.instance, context.dagster_run)
        undelivered = deliver(line, channels(operations, settings.lake_folder), secrets_of(operations))
    except Exception as error:  # an alert must not add a failure of its own
        context.log.error(f"no alert could be made for run {context.dagster_run.run_id}: {error}")
        return
    context.log.info(line)
    for channel, why in undelivered.items():
        context.log.error(f"the alert could not be sent by {channel}: {why}")
