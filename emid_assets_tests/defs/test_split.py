"""The split as a build makes it: a recording that it divides stops the build."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import EXPANDED_CLIPS, MUSIC_CLIPS
from emid_assets_tests.small_lake import DIMENSION, make_lake


@pytest.mark.parametrize("recordings", [30, 29])
def test_a_build_stops_where_a_recording_is_on_both_sides_of_the_split(
    tmp_path: Path, recordings: int
) -> None:
    tables, lake = make_lake(sources=30), Lake(tmp_path / "lake")
    # Clip i is of source i % 30: with 29 recordings, those of most sources are divided.
    place = pl.int_range(pl.len())
    clips = tables.music_clips.with_columns(
        file=pl.format("music/{}.wav", place % recordings),
        content_hash=pl.format("{}#t={}+5.0", place % recordings, 5 * (place // recordings)),
        start_s=(5.0 * (place // recordings)),
        duration_s=pl.lit(5.0),
    )
    lake.write("music_clips", "sad", pl.concat([MUSIC_CLIPS.empty(), clips], how="diagonal"))
    lake.write("expanded_clips", "sad", EXPANDED_CLIPS.empty(DIMENSION))
    lake.write("images", "awe", tables.images)
    lake.write("music_embeddings", "sad", tables.music_embeddings)
    lake.write("image_embeddings", "awe", tables.image_embeddings)
    lake.write("fused_pairs", "sad", tables.fused_pairs)
    (tmp_path / "media").mkdir()
    definitions = build_definitions(
        lake=str(lake.root),
        media=str(tmp_path / "media"),
        epochs=1,
        adapter_dimension=8,
        va_alignment="fixed",
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key="bmf", instance=instance, asset_selection=[dg.AssetKey("trained_adapter")],
            raise_on_error=False,
        )  # fmt: skip
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    check = checks["no_recording_divided"]
    assert check.blocking
    assert check.passed is result.success is (recordings == 30)
    assert ("of the same recording" in (check.description or "")) is (recordings == 29)
