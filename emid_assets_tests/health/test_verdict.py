"""The verdict on made-up lakes and runs: every state, drift against numpy, histories."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from emid_assets.health.recipes import CHANGED_MEDIA, RECIPE, Recipe, digest_of
from emid_assets.health.verdict import (
    COMPUTE_SECONDS,
    DATA_VERSION,
    HISTORY,
    HISTORY_LENGTH,
    RUN_ID,
    AssetFacts,
    Health,
    RunFacts,
    disk_use,
    examine,
    extended_history,
)
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import PIPELINE_HEALTH

NOW = 1_795_000_000.0
DAY = 86_400.0
EMOTIONS = ("calm", "sad")


def made_of(_: str, inputs: Mapping[str, Mapping[str, str]]) -> Recipe:
    return Recipe(1, {}, {name: digest_of(versions) for name, versions in inputs.items() if versions})


MUSIC = AssetFacts("music_clips", EMOTIONS, {}, made_of)
EMBEDDINGS = AssetFacts(
    "music_embeddings", EMOTIONS, {"music_clips": {one: (one,) for one in EMOTIONS}}, made_of
)
REPORT = AssetFacts("evaluation_report", ("all",), {"music_embeddings": {"all": EMOTIONS}}, made_of)
GRAPH = [MUSIC, EMBEDDINGS, REPORT]
PLACES = [(asset.name, partition) for asset in GRAPH for partition in asset.partitions]


def store(
    lake: Lake,
    table: str,
    partition: str,
    at: float,
    data_version: str = "1",
    values: list[float] | None = None,
    seconds: float = 1.0,
) -> None:
    """A version of a partition with the history that the pipeline keeps."""
    values = [5.0, 6.0] if values is None else values
    frame = pl.DataFrame({"valence": values, "arousal": values, "scale": values})
    before = lake.current(table, partition)
    asset = next((asset for asset in GRAPH if asset.name == table), None)
    inputs = {
        parent: {
            version.partition: str(version.metadata[DATA_VERSION])
            for version in lake.versions(parent)
            if version.partition in read[partition]
        }
        for parent, read in (asset.parents if asset else {}).items()
    }
    recipe = made_of(partition, inputs).to_text()
    kept = {DATA_VERSION: data_version, COMPUTE_SECONDS: seconds, RECIPE: recipe}
    history = extended_history(before.metadata if before else {}, table, frame, kept, at)
    lake.write(table, partition, frame, {**kept, HISTORY: history})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Everything built an hour ago, upstream first."""
    lake = Lake(tmp_path / "lake")
    for number, (table, partition) in enumerate(PLACES):
        store(lake, table, partition, NOW - 3600 + number)
    return lake


def look(lake: Lake, runs: list[RunFacts] | None = None, now: float = NOW, fresh_days: float = 30) -> Health:
    return examine(lake, GRAPH, runs or [], now, fresh_days)


def states(health: Health) -> dict[tuple[str, str], str]:
    return {(row["asset"], row["partition"]): row["state"] for row in health.states.iter_rows(named=True)}


def run(state: Any, partition: str = "sad", started: float = NOW - 60, **errors: str) -> RunFacts:
    return RunFacts(
        "run-1", frozenset({"music_clips", "music_embeddings"}), partition, state, started, errors
    )


def test_a_lake_that_is_built_and_fresh_is_healthy(lake: Lake) -> None:
    health = look(lake)
    assert health.is_healthy
    assert set(states(health).values()) == {"ok"}
    assert health.verdict == "healthy"
    assert not PIPELINE_HEALTH.differences(health.states)
    assert json.loads(json.dumps(health.as_json()))["healthy"] is True


def test_partitions_that_were_built_with_different_settings_are_named(lake: Lake) -> None:
    def built_with(partition: str, values: list[float], **settings: Any) -> None:
        frame = pl.DataFrame({"valence": values, "arousal": values, "scale": values})
        lake.write("music_clips", partition, frame, {RECIPE: Recipe(1, settings).to_text()})

    built_with("calm", [1.0], alpha=0.6, seed=0)
    built_with("sad", [2.0], alpha=0.6, seed=0)
    assert not [note for note in look(lake).notes if "different settings" in note]
    built_with("sad", [2.0], alpha=1.0, seed=0)
    named = "Built with different settings: alpha: 0.6 in music_clips [calm]; 1.0 in music_clips [sad]"
    assert look(lake).notes == (named,)
    assert look(lake).as_json()["notes"] == [named]
    built_with("calm", [1.0], alpha=1.0, seed=0)
    assert not look(lake).notes


def test_a_partition_that_is_empty_in_every_table_was_built_with_no_settings(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for partition, alpha in (("calm", 0.6), ("sad", 1.0)):
        frame = pl.DataFrame({"valence": [1.0] if partition == "sad" else []}, schema={"valence": pl.Float64})
        lake.write("music_clips", partition, frame, {RECIPE: Recipe(1, {"alpha": alpha}).to_text()})
    assert not look(lake).notes


def test_a_failed_run_is_told_for_the_asset_that_failed_and_those_it_did_not_reach(lake: Lake) -> None:
    health = look(lake, [run("failed", music_clips="disk full")])
    assert not health.is_healthy
    broken = {(row["asset"], row["partition"]): row["message"] for row in health.broken.iter_rows(named=True)}
    assert broken == {
        ("music_clips", "sad"): "disk full",
        ("music_embeddings", "sad"): "not reached: disk full",
    }
    assert health.verdict == "unhealthy: 2 failed"


def test_what_a_failed_run_did_store_is_not_failed(lake: Lake) -> None:
    store(lake, "music_clips", "sad", NOW - 30)
    health = look(lake, [run("failed", music_embeddings="out of memory")])
    assert states(health)["music_clips", "sad"] == "ok"
    assert states(health)["music_embeddings", "sad"] == "failed"


def test_a_version_of_an_earlier_run_is_no_result_of_a_killed_one_whatever_the_clock_said(lake: Lake) -> None:
    """The clock was ten days ahead when `music_clips` was built; it is right again when a run is killed."""

    def built_by(run_id: str) -> None:
        version = lake.current("music_clips", "sad")
        assert version is not None
        history = json.dumps(
            [{"at": NOW + 10 * DAY, "since": NOW, "rows": 2, "seconds": 1, "statistics": {}}]
        )
        kept = {**version.metadata, HISTORY: history, RUN_ID: run_id}
        lake.write("music_clips", "sad", lake.read("music_clips", ["sad"]), kept)

    order = {"earlier": False, "later": True}
    killed = replace(run("failed"), assets=frozenset({"music_clips"}), came_before=order.get)
    for builder, state in (
        ("earlier", "failed"),
        (killed.run_id, "ok"),
        ("later", "ok"),
        ("elsewhere", "ok"),
    ):
        built_by(builder)
        assert states(look(lake, [killed]))["music_clips", "sad"] == state


def test_a_newer_run_that_succeeded_or_is_under_way_takes_a_failure_away(lake: Lake) -> None:
    failed = run("failed", started=NOW - 600, music_clips="disk full")
    assert look(lake, [run("succeeded"), failed]).is_healthy
    under_way = look(lake, [run("running"), failed])
    assert under_way.is_healthy
    assert states(under_way)["music_clips", "sad"] == "running"
    assert not look(lake, [run("succeeded", partition="calm"), failed]).is_healthy


def test_what_was_never_built_is_missing_and_asks_for_a_build_only(tmp_path: Path) -> None:
    health = look(Lake(tmp_path / "new"))
    assert set(states(health).values()) == {"missing"}
    assert health.is_healthy


def test_a_partition_is_stale_where_its_parents_content_changed_after_it(lake: Lake) -> None:
    store(lake, "music_clips", "sad", NOW - 10, data_version="2")
    found = states(look(lake))
    assert found["music_embeddings", "sad"] == "stale"
    assert found["music_embeddings", "calm"] == "ok"
    store(lake, "music_embeddings", "sad", NOW - 5, data_version="2")
    health = look(lake)
    assert states(health)["evaluation_report", "all"] == "stale"
    (message,) = health.states.filter(pl.col("state") == "stale")["message"]
    assert message == "input changed: music_embeddings"
    assert health.is_healthy


def test_a_rebuild_to_the_same_content_makes_nothing_stale(lake: Lake) -> None:
    store(lake, "music_clips", "sad", NOW - 10, data_version="1")
    assert set(states(look(lake)).values()) == {"ok"}


def test_a_partition_that_was_not_built_for_too_long_is_overdue(lake: Lake) -> None:
    assert look(lake, now=NOW + 29 * DAY).is_healthy
    health = look(lake, now=NOW + 31 * DAY)
    assert set(states(health).values()) == {"overdue"}
    assert not health.is_healthy
    assert "31 days ago, more than 30" in health.broken["message"][0]


def test_a_damaged_file_is_told_with_its_path_and_the_way_out(lake: Lake) -> None:
    version = lake.current("music_embeddings", "sad")
    assert version is not None
    version.path.chmod(0o644)
    version.path.write_bytes(b"no database")
    health = look(lake)
    assert states(health)["music_embeddings", "sad"] == "damaged"
    (message,) = health.broken["message"]
    assert str(version.path) in message
    assert "Build music_embeddings/sad again" in message
    assert "\n" not in message


def test_a_lake_from_before_recipes_and_histories_were_kept_is_stale_and_says_why(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for table, partition in PLACES:
        lake.write(table, partition, pl.DataFrame({"valence": [1.0]}))
    health = examine(lake, GRAPH, [], lake.versions("music_clips")[0].path.stat().st_mtime + 60, 30)
    assert set(states(health).values()) == {"stale"}
    assert set(health.states["message"]) == {"built by a version that kept no recipe"}
    assert health.drift.is_empty()


@pytest.mark.parametrize(("changed", "state"), [(0, "ok"), (2, "stale")])
def test_a_partition_that_left_changed_media_out_is_not_current(lake: Lake, changed: int, state: str) -> None:
    version = lake.current("music_clips", "sad")
    assert version is not None
    rows = lake.read("music_clips", ["sad"])
    lake.write("music_clips", "sad", rows, {**version.metadata, CHANGED_MEDIA: changed})
    health = look(lake)
    assert states(health)["music_clips", "sad"] == state
    told = health.states.filter(asset="music_clips", partition="sad")["message"].item()
    assert told == ("2 files changed or could not be read" if changed else "")


def test_drift_is_in_spreads_of_the_whole_table_as_it_was(lake: Lake) -> None:
    before = {"calm": [4.0, 5.0, 6.5], "sad": [2.0, 3.0]}
    after = {"calm": [4.0, 5.0, 6.5], "sad": [4.0, 5.5]}
    for at, values in ((NOW - 20, before), (NOW - 10, after)):
        for partition, numbers in values.items():
            store(lake, "music_clips", partition, at, values=numbers)
    spread = np.std([*before["calm"], *before["sad"]])
    drift = look(lake).drift.filter((pl.col("table") == "music_clips") & (pl.col("column") == "valence"))
    assert drift["partition"].to_list() == ["sad", "calm"]
    assert drift["shift"].to_list() == pytest.approx([(4.75 - 2.5) / spread, 0.0])
    assert drift["is_notable"].to_list() == [True, False]


def test_norms_without_spread_drift_by_shares_of_their_mean(lake: Lake) -> None:
    for at, norm in ((NOW - 20, 20.0), (NOW - 10, 22.0)):
        store(lake, "music_embeddings", "sad", at, values=[norm, norm])
    drift = look(lake).drift.filter((pl.col("column") == "scale") & (pl.col("partition") == "sad"))
    assert drift["before"].item() == 20.0
    assert drift["now"].item() == 22.0
    assert drift["shift"].item() == pytest.approx(0.1)


def test_drift_and_times_survive_the_clearing_away_of_old_versions(lake: Lake) -> None:
    for number in range(3):
        store(lake, "music_clips", "sad", NOW - 30 + number, values=[float(number)], seconds=number + 0.5)
    told = look(lake)
    lake.rebuild_catalogue()
    lake.collect_garbage(-DAY)
    assert len(list((lake.root / "tables" / "music_clips" / "sad").glob("*.duckdb"))) == 1
    again = look(lake)
    assert again.drift.equals(told.drift)
    assert again.times.equals(told.times)
    of_sad = again.times.filter((pl.col("asset") == "music_clips") & (pl.col("partition") == "sad"))
    assert of_sad.select("build", "seconds").rows() == [(-3, 1.0), (-2, 0.5), (-1, 1.5), (0, 2.5)]


def test_a_history_stays_short(lake: Lake) -> None:
    for number in range(HISTORY_LENGTH + 5):
        store(lake, "music_clips", "sad", NOW + number)
    version = lake.current("music_clips", "sad")
    assert version is not None
    entries = json.loads(str(version.metadata[HISTORY]))
    assert len(entries) == HISTORY_LENGTH
    assert entries[-1]["at"] == NOW + HISTORY_LENGTH + 4


def test_a_clock_set_back_turns_no_history_round_and_makes_nothing_overdue(lake: Lake) -> None:
    for table, partition in PLACES:
        store(lake, table, partition, NOW - 400 * DAY, data_version="2")
    health = look(lake, now=NOW - 400 * DAY)
    assert health.is_healthy
    assert set(states(health).values()) <= {"ok", "stale"}
    version = lake.current("music_clips", "sad")
    assert version is not None
    at = [entry["at"] for entry in json.loads(str(version.metadata[HISTORY]))]
    assert at == sorted(at)


def test_rejected_media_are_counted_by_reason_over_all_stages(lake: Lake) -> None:
    columns = ("kind", "item_id", "file", "reason")
    for partition, rows in (
        ("all", [("music", "a", "a.mp3", "empty"), ("music", "b", "b.mp3", "empty")]),
        ("image_embeddings-awe", [("image", "c", "c.png", "broken")]),
    ):
        frame = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
        lake.write("rejected_media", partition, frame)
    assert look(lake).rejected.rows() == [("music", "empty", 2), ("image", "broken", 1)]


def test_the_disk_of_a_lake_adds_up_to_what_du_says(lake: Lake) -> None:
    store(lake, "music_clips", "sad", NOW)
    (lake.root / "weights").mkdir()
    (lake.root / "weights" / "bmf.safetensors").write_bytes(b"0" * 10_000)
    used = disk_use(lake.root)
    files = [path for path in lake.root.rglob("*") if path.is_file()]
    assert used["bytes"].sum() == sum(path.stat().st_blocks * 512 for path in files)
    assert used["files"].sum() == len(files)
    assert used.filter(pl.col("part") == "superseded versions")["files"].item() == 1
    shutil.rmtree(lake.root)
    assert disk_use(lake.root).is_empty()
