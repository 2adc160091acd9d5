"""The folder sensor, the conditions and the rebuild on the whole graph, with real media."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from emid_assets.adapters import NETWORKS
from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.definitions import build_definitions
from emid_assets.defs.automation import SETTLE_S
from emid_assets.media.folder_changes import Watch
from emid_assets.settings import SettingsError
from emid_assets.store.lake import Lake
from emid_assets_tests.conftest import Checkout
from emid_assets_tests.defs.ticking import Automation
from emid_assets_tests.defs.tiny_media import CLIPS, IMAGES, write_clip, write_media
from emid_assets_tests.graph import stage_of_assets

SMALL: dict[str, Any] = {"workers": 0, "epochs": 1, "adapter_dimension": 8, "candidates": 10}


class Folder:
    """The sensor `media_folder`, tick by tick."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions, self.instance = definitions, instance
        self.cursor: str | None = None
        self.said = ""

    def tick(self) -> list[dg.RunRequest]:
        """One look; what it asks for."""
        repository = self.definitions.get_repository_def()
        with dg.build_sensor_context(
            self.instance,
            self.cursor,
            repository_def=repository,
            resources=repository.get_top_level_resources(),
        ) as context:
            result = repository.get_sensor_def("media_folder").evaluate_tick(context)
        self.cursor, self.said = result.cursor, str(result.skip_message)
        return list(result.run_requests or [])

    def wait(self) -> None:
        """Let the time pass that a folder needs to come to rest: what was seen was seen earlier."""
        watch = Watch.from_text(self.cursor)
        assert watch is not None
        self.cursor = replace(watch, since_s=watch.since_s - SETTLE_S).to_text()


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


@pytest.fixture
def definitions(media: Path, tmp_path: Path) -> dg.Definitions:
    return build_definitions(media=str(media), lake=str(tmp_path / "lake"), **SMALL)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "home").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "home")) as instance:
        yield instance


@pytest.fixture
def folder(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Folder:
    return Folder(definitions, instance)


def asked(folder: Folder) -> list[dg.RunRequest]:
    """What is asked for once the folder has been seen twice and the time has passed."""
    assert folder.tick() == []
    folder.wait()
    return folder.tick()


def take_inventory(folder: Folder) -> None:
    result = folder.definitions.resolve_job_def("inventory").execute_in_process(instance=folder.instance)
    assert result.success


def test_the_sensor_asks_once_for_each_change_and_says_what_changed(folder: Folder, media: Path) -> None:
    (request,) = asked(folder)
    assert request.tags["emid/media"] == "8 new, 0 changed, 0 removed"
    take_inventory(folder)
    assert folder.tick() == []
    assert "as before" in folder.said
    write_clip(media / "music" / "sad" / "new.wav", 7)
    write_clip(media / "music" / "sad" / "a.wav", 8)
    (media / "images" / "awe" / "e.png").unlink()
    (second,) = asked(folder)
    assert second.tags["emid/media"] == "1 new, 1 changed, 1 removed"
    assert second.run_key != request.run_key
    (media / "music.csv").write_text("file,genre\nsad/a.wav,K\n")
    assert len(asked(folder)) == 1


def test_a_file_that_is_still_being_copied_waits(folder: Folder, media: Path) -> None:
    assert len(asked(folder)) == 1
    half = media / "music" / "sad" / "new.wav"
    for size in (1000, 2000, 3000):
        half.write_bytes(b"x" * size)
        assert folder.tick() == []
        assert "settling" in folder.said
    folder.wait()
    assert len(folder.tick()) == 1


def test_a_media_folder_that_is_gone_removes_nothing_and_is_looked_at_anew_once_it_is_back(
    folder: Folder, media: Path
) -> None:
    assert len(asked(folder)) == 1
    media.rename(media.with_name("unmounted"))
    assert folder.tick() == []
    assert "no run is requested until it is back" in folder.said
    media.mkdir()  # an empty mount point
    assert folder.tick() == []
    media.rmdir()
    media.with_name("unmounted").rename(media)
    assert len(asked(folder)) == 1


def test_the_sensor_waits_for_an_inventory_that_is_under_way(folder: Folder) -> None:
    job = folder.definitions.resolve_job_def("inventory")
    run = folder.instance.create_run_for_job(job)
    assert folder.tick() == []
    assert "an inventory is running" in folder.said
    folder.instance.report_run_canceled(run)
    assert len(asked(folder)) == 1


def rows_that_name(lake: Lake, item: str) -> list[str]:
    """Tables with the item in any column of text."""
    found = []
    for table in sorted(path.name for path in (lake.root / "tables").iterdir()):
        frame = lake.read(table).select(pl.col(pl.String))
        if any(frame[name].str.contains(item, literal=True).any() for name in frame.columns):
            found.append(table)
    return found


@pytest.mark.slow
def test_a_folder_is_built_by_itself_and_a_removed_file_goes_from_every_table(
    folder: Folder, media: Path, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    everything = {*MUSIC_EMOTION_KEYS, *IMAGE_EMOTION_KEYS, *NETWORKS}
    with_media = {name.partition("/")[0] for name in (*CLIPS, *IMAGES)}
    empty = frozenset(
        everything - with_media - {"distilled"}
    )  # one adapter is enough, and three times faster
    automation = Automation(folder.definitions, folder.instance, empty)
    assert automation.tick() == []
    assert len(asked(folder)) == 1
    take_inventory(folder)
    runs = automation.until_rest()
    assert all(succeeded for _, _, succeeded in runs), runs
    # Each stage once for each partition that has media, and once where it has no partitions.
    built = [(asset, partition) for assets, partition, _ in runs for asset in assets]
    assert len(built) == len(set(built))
    assert {asset for asset, _ in built} == {
        asset for asset, stage in stage_of_assets(build_definitions()).items() if stage != "inventory"
    }
    assert lake.read("fused_pairs").height == 4 * 3
    assert {"music_clips", "music_embeddings", "fused_pairs", "adapted_embeddings"} <= set(
        rows_that_name(lake, "sad/b.wav")
    )

    (media / "music" / "sad" / "b.wav").unlink()
    (request,) = asked(folder)
    assert request.tags["emid/media"] == "0 new, 0 changed, 1 removed"
    take_inventory(folder)
    runs = automation.until_rest()
    assert all(succeeded for _, _, succeeded in runs), runs
    assert rows_that_name(lake, "sad/b.wav") == []
    assert lake.read("fused_pairs").height == 3 * 3
    assert "sad/b.wav" not in (lake.root / "report.html").read_text()
    # Every manifest is looked at, and E of every emotion moves with the mean of all; nothing is built twice.
    built = [(asset, partition) for assets, partition, _ in runs for asset in assets]
    assert len(built) == len(set(built))
    take_inventory(folder)
    assert automation.until_rest() == []


def test_a_rebuild_asks_for_every_partition_of_every_asset_and_only_once(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    job = definitions.resolve_job_def("rebuild")
    assert job.execute_in_process(instance=instance).success
    (backfill,) = instance.get_backfills()
    graph = definitions.resolve_asset_graph()
    assert backfill.asset_backfill_data is not None
    target = backfill.asset_backfill_data.target_subset
    for key in graph.get_all_asset_keys():
        partitions = graph.get(key).partitions_def
        if partitions is None:
            assert key in target.non_partitioned_asset_keys
        else:
            wanted = target.partitions_subsets_by_asset_key[key].get_partition_keys()
            assert set(wanted) == set(partitions.get_partition_keys())
    assert job.execute_in_process(instance=instance).success
    assert len(instance.get_backfills()) == 1
    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert job.execute_in_process(instance=instance).success
    assert len(instance.get_backfills()) == 2


def update(settings: dict[str, Any], home: Path) -> tuple[dg.ExecuteInProcessResult, int]:
    """Run the job `update` as the nightly schedule does; returns how many runs of other jobs it led to."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        before = instance.get_runs_count()
        job = build_definitions(**settings).resolve_job_def("update")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        return result, instance.get_runs_count() - before - 1


@pytest.mark.demo
def test_the_nightly_update_builds_what_is_not_current_and_nothing_the_next_night(
    demo: Checkout, tmp_path: Path
) -> None:
    shutil.copytree(demo.demo_lake, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    settings = {"media": str(demo.folder / "emid_assets" / "sample"), "lake": str(lake.root)}
    lake.remove("published_agreement", "all")
    first, runs = update(settings, lake.root / "dagster")
    assert first.success
    assert runs == 2  # of the stages evaluate and health
    assert lake.partitions("published_agreement") == ["all"]
    again, runs = update(settings, lake.root / "dagster")
    assert again.success
    assert runs == 0


@pytest.mark.slow
def test_an_update_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").touch()
    result, _ = update({"media": str(tmp_path / "nowhere"), "lake": str(tmp_path / "lake")}, tmp_path)
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert "there is no such folder" in str(failure.step_failure_data.error)


def test_everything_that_starts_runs_is_off_and_the_alert_is_on(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    on = {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs}
    assert {name: on[name] for name in ("media_folder", "changed_data", "alert_on_failure")} == {
        "media_folder": "STOPPED", "changed_data": "STOPPED", "alert_on_failure": "RUNNING",
    }  # fmt: skip
    schedule = repository.get_schedule_def("nightly_rebuild")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_the_schedule_has_a_time_and_a_zone_that_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = build_definitions().get_repository_def().get_schedule_def("nightly_rebuild")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "UTC")
    monkeypatch.setenv("EMID_REBUILD_CRON", "30 22 * * 5")
    monkeypatch.setenv("EMID_REBUILD_TIME_ZONE", "Europe/Berlin")
    definitions = build_definitions()
    schedule = definitions.get_repository_def().get_schedule_def("nightly_rebuild")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 22 * * 5", "Europe/Berlin")
    with dg.DagsterInstance.ephemeral() as instance:
        tick = schedule.evaluate_tick(dg.build_schedule_context(instance))
    assert len(tick.run_requests or []) == 1
    monkeypatch.setenv("EMID_REBUILD_TIME_ZONE", "Mars/Olympus")
    with pytest.raises(SettingsError, match="EMID_REBUILD_TIME_ZONE"):
        build_definitions()
