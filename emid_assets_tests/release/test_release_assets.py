"""The release assets in a real run: what they store, what they keep, and what they warn of."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from emid_assets.definitions import build_definitions
from emid_assets.defs.release import MixedSettingsError
from emid_assets.health.recipes import RECIPE, Recipe
from emid_assets.health.verdict import DATA_VERSION
from emid_assets.media.inventory import take_inventory
from emid_assets.release import emid_release
from emid_assets.store.lake import WHOLE_TABLE, Lake
from emid_assets.store.schemas import EXPANDED_CLIPS, SIMILARITY_MATRIX
from emid_assets_tests.release.conftest import SmallSet


def pair(lake: Lake, partition: str, **settings: Any) -> None:
    """Build a partition of the pairs again with other settings, as the launchpad does."""
    recipe = Recipe(1, {"alpha": 0.6, "images_per_clip": 3, **settings})
    lake.write("fused_pairs", partition, lake.read("fused_pairs", [partition]), {RECIPE: recipe.to_text()})


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
        kept = {RECIPE: Recipe(1, {"expansion_threshold": 0.5}).to_text()}
        lake.write("expanded_clips", str(emotion), EXPANDED_CLIPS.check(expanded), kept)
        lake.write("fused_pairs", str(emotion), small_set.pairs.join(clips, on="clip_id", how="semi"))
        pair(lake, str(emotion))
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
    assert set(files["role"]) == {"table", "media", "data", "card"}
    version = lake.current("emid_release", WHOLE_TABLE)
    assert version is not None
    assert "music/long@3.25+1.500.flac" in set(files["file"])  # the expanded clip
    assert (version.metadata["clips"], version.metadata["pairs"]) == (6, 18)
    assert written() == first
    (lake.root / "release" / "EMID_data.csv").unlink()
    mended = written()
    assert mended != first
    assert lake.read("emid_release").equals(files)
    for partition in lake.partitions("fused_pairs"):
        pair(lake, partition, images_per_clip=4)
    assert written() != mended
    assert "Image4_filename" in (lake.root / "release" / "EMID_data.csv").read_text()
    assert not list(lake.root.glob("release.*"))


def test_the_card_has_the_settings_that_the_pairs_were_built_with_not_those_of_the_run(
    lake: Lake, small_set: SmallSet
) -> None:
    for partition in lake.partitions("fused_pairs"):
        pair(lake, partition, alpha=1.0)
    assert materialize(lake, small_set.media, "emid_release", alpha=0.25).success
    card = (lake.root / "release" / "README.md").read_text()
    assert "| alpha | 1.0 |" in card
    assert "0.25" not in card


def test_a_release_of_pairs_of_different_settings_is_refused_unless_it_is_asked_for_and_names_them(
    lake: Lake, small_set: SmallSet
) -> None:
    first, second = lake.partitions("fused_pairs")
    pair(lake, first)
    pair(lake, second, alpha=1.0, images_per_clip=1)
    with pytest.raises(MixedSettingsError) as refused:
        materialize(lake, small_set.media, "emid_release")
    mixed = f"0.6 in fused_pairs [{first}]; 1.0 in fused_pairs [{second}]"
    assert mixed in str(refused.value)
    assert f"3 in fused_pairs [{first}]; 1 in fused_pairs [{second}]" in str(refused.value)
    assert not (lake.root / "release").exists()
    assert materialize(lake, small_set.media, "emid_release", mixed_settings=True).success
    assert f"| alpha | {mixed} |" in (lake.root / "release" / "README.md").read_text()


def test_pairs_that_were_built_before_their_similarity_do_not_have_its_settings(
    lake: Lake, small_set: SmallSet
) -> None:
    first, second = lake.partitions("fused_pairs")
    for number, partition in enumerate((first, second)):
        kept = {RECIPE: Recipe(1, {"candidates": 100}).to_text(), DATA_VERSION: "new"}
        lake.write("similarity_matrix", partition, SIMILARITY_MATRIX.empty(), kept)
        of_pairs = Recipe(1, {"alpha": 0.6}, {"similarity_matrix": ("old", "new")[number]}).to_text()
        lake.write("fused_pairs", partition, lake.read("fused_pairs", [partition]), {RECIPE: of_pairs})
    with pytest.raises(MixedSettingsError, match=rf"unknown in similarity_matrix \[{first}\]"):
        materialize(lake, small_set.media, "emid_release")


def test_of_two_releases_at_once_the_second_waits_and_both_end_well(
    lake: Lake, small_set: SmallSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_clips, at_work, waits = emid_release.place_clips, [], threading.Event()
    built_alone = Lake.built_alone

    def telling(self: Lake, table: str, partition: str, on_wait: Callable[[], None]) -> Any:
        return built_alone(self, table, partition, lambda: (waits.set(), on_wait()))

    def slowly(clips: pl.DataFrame, media: Any, folder: Path) -> Any:
        at_work.append(folder)
        if len(at_work) == 1:
            assert waits.wait(60)
        assert len(at_work) == 1
        placed = place_clips(clips, media, folder)
        at_work.pop()
        return placed

    monkeypatch.setattr(Lake, "built_alone", telling)
    monkeypatch.setattr(emid_release, "place_clips", slowly)
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(materialize, lake, small_set.media, "emid_release") for _ in range(2)]
        assert all(run.result(120).success for run in runs)
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
