"""The release assets in a real run: what they store, what they keep, and what they warn of."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.media.inventory import take_inventory
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.schemas import EXPANDED_CLIPS
from emid_assets_tests.release.conftest import SmallSet


@pytest.fixture
def lake(small_set: SmallSet, tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.write("media_inventory", WHOLE_TABLE, take_inventory(small_set.media, workers=0))
    for (emotion,), clips in small_set.music_clips.group_by("emotion"):
        lake.write("music_clips", str(emotion), clips.filter("is_original_clip"))
        expanded = clips.filter(~pl.col("is_original_clip")).with_columns(
            source_clip_id=pl.lit("long.ogg#t=0.0+2.0"), cosine=pl.lit(0.9),
            embedding=pl.lit([1.0], pl.Array(pl.Float32, 1)), scale=pl.lit(1.0, pl.Float32),
        )  # fmt: skip
        lake.write("expanded_clips", str(emotion), EXPANDED_CLIPS.check(expanded))
        pairs = small_set.pairs.join(clips, on="clip_id", how="semi")
        lake.write("fused_pairs", str(emotion), pairs)
    for (tag,), images in small_set.images.group_by("tag"):
        lake.write("images", str(tag), images)
    return lake


def materialize(lake: Lake, media: Path, asset: str, **settings: Any) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(lake=str(lake.root), media=str(media), **settings)
    graph = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        return graph.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(asset)])


def test_a_release_is_written_once_and_again_where_pairs_settings_or_its_files_differ(
    lake: Lake,
    small_set: SmallSet,
) -> None:
    def written() -> int:
        result = materialize(lake, small_set.media, "emid_release", **settings)
        assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())
        return (lake.root / "release").stat().st_ino

    settings: dict[str, Any] = {}
    first = written()
    files = lake.read("emid_release")
    assert set(files["role"]) == {"table", "media", "data", "retrieval", "card"}
    version = lake.current("emid_release", WHOLE_TABLE)
    assert version is not None
    assert "music/long@3.25+1.500.flac" in set(files["file"])  # the expanded clip
    assert (version.metadata["clips"], version.metadata["pairs"]) == (6, 18)
    assert written() == first
    (lake.root / "release" / "EMID_data.csv").unlink()
    mended = written()
    assert mended != first
    assert lake.read("emid_release").equals(files)
    settings["images_per_clip"] = 4
    assert written() != mended
    assert "Image4_filename" in (lake.root / "release" / "EMID_data.csv").read_text()
    assert not list(lake.root.glob("release.*"))


def test_published_pairs_are_read_and_those_of_unknown_media_are_a_warning(
    lake: Lake,
    small_set: SmallSet,
) -> None:
    path = small_set.media / "pairs.csv"
    path.write_text("clip_id,image_id,rank\nlong.ogg,0.png,1\nlong.ogg#t=0.0+2.0,0.png,1\n")
    try:
        result = materialize(lake, small_set.media, "published_pairs")
    finally:
        path.unlink()
    [known] = [check for check in result.get_asset_check_evaluations() if check.check_name == "known"]
    assert result.success
    assert not known.passed
    assert known.severity == dg.AssetCheckSeverity.WARN
    assert known.description == "clip_id long.ogg"
    assert lake.read("published_pairs").height == 2
    assert materialize(lake, small_set.media, "published_pairs").success
    assert lake.read("published_pairs").is_empty()
