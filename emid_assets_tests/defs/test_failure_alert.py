"""What the alert says of a failed run, and that nothing about it can fail the pipeline."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.defs.alerts import alert_line, alert_on_failure
from emid_assets_tests.defs.tiny_media import write_media
from emid_assets_tests.health.test_alert_channels import Webhook

TOKEN = "T0KEN-abc"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


@pytest.fixture
def definitions(media: Path, tmp_path: Path) -> dg.Definitions:
    return build_definitions(media=str(media), lake=str(tmp_path / "lake"), workers=0)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def failed(
    definitions: dg.Definitions, instance: dg.DagsterInstance, job: str, partition: str | None = None
) -> dg.ExecuteInProcessResult:
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=partition, raise_on_error=False
    )
    assert not result.success
    return result


def test_the_line_names_the_asset_and_the_reason_whatever_the_reason_holds(
    definitions: dg.Definitions, instance: dg.DagsterInstance, media: Path
) -> None:
    (media / "music.csv").write_text('"na\x1b[2J\nme",genre\nsad/a.wav,K\n')
    result = failed(definitions, instance, "inventory")
    line = alert_line(instance, result.dagster_run)
    assert line.startswith("media_inventory failed: ")
    assert "music.csv" in line
    assert line.endswith(f"(job inventory, run {result.run_id[:8]})")
    assert line.isprintable()


def test_the_line_names_the_partition(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    result = failed(definitions, instance, "embed_images", "awe")
    line = alert_line(instance, result.dagster_run)
    assert line.startswith("images [awe] failed: asset media_inventory is not built")


def test_an_alert_that_cannot_be_sent_is_no_error_and_tells_no_secret(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("emid_assets.health.alert_channels.BACK_OFF_S", (0.0, 0.0))
    monkeypatch.setenv("EMID_ALERT_WEBHOOK", f"http://127.0.0.1:9/{TOKEN}")
    result = failed(definitions, instance, "embed_images", "awe")
    (event,) = [event for event in result.all_events if event.event_type_value == "PIPELINE_FAILURE"]
    repository = definitions.get_repository_def()
    for _ in range(2):
        with dg.build_run_status_sensor_context(
            sensor_name="alert_on_failure",
            dagster_event=event,
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            resources=repository.get_top_level_resources(),
            repository_def=repository,
        ).for_run_failure() as context:
            assert alert_on_failure(context) is None
        assert "images [awe] failed" in (tmp_path / "lake" / "alerts.log").read_text()
        monkeypatch.setenv("EMID_ALERT_MAIL_TO", f"{TOKEN} is no address")  # settings gone wrong since
    printed = "".join(capfd.readouterr())
    assert "could not be sent by webhook" in printed
    assert "no alert could be made" in printed
    assert TOKEN not in printed


def test_what_the_code_server_saw_of_a_process_that_died_is_the_reason(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    run = instance.create_run_for_job(definitions.resolve_job_def("inventory"))
    died = f"Run execution process for {run.run_id} unexpectedly exited with exit code -9."
    instance.report_engine_event(died, run)
    instance.report_run_failed(run)
    line = alert_line(instance, run)
    assert line == f"inventory failed: {died} (job inventory, run {run.run_id[:8]})"


def alert(definitions: dg.Definitions, instance: dg.DagsterInstance, run_id: str) -> None:
    """What a tick of the sensor does for a failed run."""
    (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
    (entry,) = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert entry.dagster_event is not None
    repository = definitions.get_repository_def()
    with dg.build_run_status_sensor_context(
        sensor_name="alert_on_failure",
        dagster_event=entry.dagster_event,
        dagster_instance=instance,
        dagster_run=record.dagster_run,
        resources=repository.get_top_level_resources(),
        repository_def=repository,
    ).for_run_failure() as context:
        alert_on_failure(context)


def test_a_tick_that_is_repeated_sends_only_what_was_not_delivered(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("emid_assets.health.alert_channels.BACK_OFF_S", (0.0, 0.0))
    webhook = Webhook()
    monkeypatch.setenv("EMID_ALERT_WEBHOOK", webhook.url)
    run_id = failed(definitions, instance, "embed_images", "awe").run_id
    webhook.statuses = [500] * 3
    for _ in range(3):
        alert(definitions, instance, run_id)
    assert len(webhook.posted) == 3 + 1  # refused three times at the first tick, sent at the second
    assert len((tmp_path / "lake" / "alerts.log").read_text().splitlines()) == 1

    run = instance.get_run_by_id(run_id)
    assert run is not None
    retry = instance.create_run_for_job(definitions.resolve_job_def("inventory"), tags=run.tags)
    instance.report_run_failed(retry)
    alert(definitions, instance, retry.run_id)
    assert len(webhook.posted) == 3 + 2
    assert len((tmp_path / "lake" / "alerts.log").read_text().splitlines()) == 2
    webhook.server.shutdown()
    webhook.server.server_close()
