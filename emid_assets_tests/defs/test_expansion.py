"""The expansion assets on recordings, with the bundled encoder: what joins, and what is not done again."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import soundfile

from emid_assets.adapters.splits import divided_recordings, split_by_source
from emid_assets.definitions import build_definitions
from emid_assets.media.expansion import all_clips, recording_of
from emid_assets.store.lake import Lake
from emid_assets.store.schemas import TABLES

RATE = 8_000
EMOTIONS = ("calm", "sad", "scary")
TABLE = """file,clip_id,genre,start_s,duration_s,source_id
one.wav,the sad one,K,0,5,song 1
one.wav,the scary one,L,12.5,2.5,song 2
two.wav,the calm one,E,5,5,
whole.wav,another sad one,K,,,
"""


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings that clips are cut from, of which one gave two clips, and a file that is a clip."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("music", "images"):
        (folder / name).mkdir()
    for seed, (name, seconds) in enumerate((("one", 20), ("two", 20), ("whole", 5))):
        t = np.arange(seconds * RATE) / RATE
        noise = np.random.default_rng(seed).normal(size=t.size) * (0.02 + 0.02 * (t % 5))
        tones = sum(np.sin(2 * np.pi * (110 + 55 * seed) * k * t) / k for k in (1, 2, 3)) * (0.1 + 0.01 * t)
        soundfile.write(folder / "music" / f"{name}.wav", tones + noise, RATE)
    (folder / "music.csv").write_text(TABLE)
    return folder


def build(lake: Lake, media: Path, **settings: Any) -> None:
    """Inventory, embeddings and windows of every music partition."""
    run(lake, media, "inventory", [None], **settings)
    run(lake, media, "embed_music", EMOTIONS, **settings)
    expand(lake, media, **settings)


def run(lake: Lake, media: Path, job: str, partitions: Any, **settings: Any) -> None:
    definitions = build_definitions(lake=str(lake.root), media=str(media), workers=0, **settings)
    with dg.DagsterInstance.ephemeral() as instance:
        for key in partitions:
            result = definitions.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance)
            assert all(check.passed for check in result.get_asset_check_evaluations() if check.blocking)


def expand(lake: Lake, media: Path, **settings: Any) -> None:
    definitions = build_definitions(lake=str(lake.root), media=str(media), **settings)
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        for key in EMOTIONS:
            job.execute_in_process(
                partition_key=key, instance=instance, asset_selection=[dg.AssetKey("expanded_clips")]
            )


def metadata(lake: Lake, table: str, name: str) -> list[Any]:
    return [version.metadata[name] for version in lake.versions(table)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("lake") / "lake")
    build(lake, media, expansion_threshold=-1.0)
    return lake


def test_windows_join_with_the_labels_of_their_source_and_beside_every_clip(built: Lake) -> None:
    clips, expanded = built.read("music_clips"), built.read("expanded_clips")
    assert not TABLES["expanded_clips"].differences(expanded)
    # Seven windows of 5 s in 20 s: recording one loses those over both of its clips, recording two three.
    of_file = expanded.with_columns(recording=recording_of("content_hash"))
    assert sorted(of_file.filter(pl.col("file") == "music/one.wav")["start_s"]) == [5.0, 7.5, 15.0]
    assert sorted(of_file.filter(pl.col("file") == "music/two.wav")["start_s"]) == [0.0, 10.0, 12.5, 15.0]
    assert expanded.filter(pl.col("file") == "music/whole.wav").is_empty()
    assert not expanded["is_original_clip"].any()
    sources = clips.select(pl.col("clip_id").alias("source_clip_id"), "emotion", "source_id", "valence")
    same = expanded.join(sources, on=["source_clip_id", "emotion", "source_id", "valence"], how="semi")
    assert same.height == expanded.height == 7


def test_the_cosine_is_that_of_the_stored_embeddings(built: Lake) -> None:
    vector = {
        name: np.array(row, np.float64)
        for name, row in built.read("music_embeddings").select("clip_id", "embedding").rows()
    }
    for source, cosine, row in (
        built.read("expanded_clips").select("source_clip_id", "cosine", "embedding").rows()
    ):
        assert cosine == pytest.approx(float(np.array(row, np.float64) @ vector[source]), abs=1e-6)


def test_the_counts_of_all_emotions_stand_in_the_metadata_of_each_partition(
    tmp_path: Path, built: Lake, media: Path
) -> None:
    definitions = build_definitions(lake=str(built.root), media=str(media), expansion_threshold=-1.0)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key="sad", instance=instance, asset_selection=[dg.AssetKey("expanded_clips")]
        )
        (event,) = result.get_asset_materialization_events()
    shown = event.materialization.metadata["counts_by_emotion"].value
    assert isinstance(shown, str)
    assert "| E | calm | 1 | 5 |" in shown
    assert "|  | all | 4 | 11 |" in shown


def test_no_window_overlaps_one_of_another_source_and_no_split_divides_a_recording(built: Lake) -> None:
    clips = all_clips(built.read("music_clips"), built.read("expanded_clips"))
    joining = clips.join(clips, on="file", suffix="_other").filter(
        (pl.col("start_s") < pl.col("start_s_other") + pl.col("duration_s_other"))
        & (pl.col("start_s_other") < pl.col("start_s") + pl.col("duration_s"))
    )
    assert joining.height > clips.height
    assert (joining["source_id"] == joining["source_id_other"]).all()
    for seed in range(10):
        parts = split_by_source(clips["source_id"].to_list(), seed)
        assert divided_recordings(clips, dict(zip(clips["clip_id"], parts, strict=True))) == []


def test_a_recording_whose_clips_have_several_emotions_is_encoded_once(built: Lake) -> None:
    windows = built.read("expansion_windows")
    claimed_twice = windows.filter(pl.col("content_hash").is_duplicated())
    assert set(claimed_twice["file"]) == {"music/one.wav"}
    assert sum(metadata(built, "expansion_windows", "encoded")) == windows["content_hash"].n_unique()
    assert claimed_twice.select("content_hash", "embedding", "scale").n_unique() * 2 == claimed_twice.height


def test_a_recording_whose_clips_are_in_several_shards_is_encoded_once(media: Path, tmp_path: Path) -> None:
    folder, lake = Path(shutil.copytree(media, tmp_path / "media")), Lake(tmp_path / "lake")
    starts = {"intro": 0, "verse": 5, "refrain": 10, "coda": 18}
    rows = [f"one.wav,{name},K,{start},1.5" for name, start in starts.items()]
    (folder / "music.csv").write_text("\n".join(["file,clip_id,genre,start_s,duration_s", *rows]))
    run(lake, folder, "inventory", [None])
    run(lake, folder, "embed_music", ["sad-00", "sad-01"], shards_per_emotion=2)
    assert [version.rows for version in lake.versions("music_clips")] == [2, 2]
    windows = lake.read("expansion_windows")
    assert windows["content_hash"].is_duplicated().any()
    assert sum(metadata(lake, "expansion_windows", "encoded")) == windows["content_hash"].n_unique()


def test_a_second_build_encodes_nothing_and_gives_the_same_clips(built: Lake, media: Path) -> None:
    before = built.read("expanded_clips")
    assert sum(metadata(built, "expansion_windows", "encoded")) > 0
    build(built, media, expansion_threshold=-1.0)
    assert metadata(built, "expansion_windows", "encoded") == [0, 0, 0]
    assert built.read("expanded_clips").equals(before)


def test_a_target_is_one_threshold_in_all_partitions_and_needs_no_encoding(built: Lake, media: Path) -> None:
    windows = built.read("expansion_windows")
    expand(built, media, expansion_target=8)
    expanded = built.read("expanded_clips")
    assert expanded.height == 8 - 4
    (threshold,) = set(metadata(built, "expanded_clips", "threshold"))
    assert expanded["cosine"].min() == threshold
    assert metadata(built, "expanded_clips", "data_set") == [8, 8, 8]
    assert built.read("expansion_windows").equals(windows)
    expand(built, media, expansion_threshold=threshold)
    assert built.read("expanded_clips").equals(expanded)
    expand(built, media, expansion_threshold=-1.0, expansion_per_source=1)
    assert built.read("expanded_clips").group_by("source_clip_id").len()["len"].max() == 1


def test_other_hops_encode_only_the_windows_that_are_new(built: Lake, media: Path) -> None:
    before = built.read("expansion_windows")
    run(built, media, "embed_music", EMOTIONS, expansion_hop_s=1.25)
    after = built.read("expansion_windows")
    assert set(before["content_hash"]) < set(after["content_hash"])
    new = set(after["content_hash"]) - set(before["content_hash"])
    assert sum(metadata(built, "expansion_windows", "encoded")) == len(new)
    assert sum(metadata(built, "expansion_windows", "reused")) == after.height - len(new)


def test_windows_that_cannot_be_encoded_are_named_with_their_reason(tmp_path: Path) -> None:
    media, lake = tmp_path / "media", Lake(tmp_path / "lake")
    for name in ("music", "images"):
        (media / name).mkdir(parents=True)
    tone = np.sin(2 * np.pi * 220 * np.arange(15 * RATE) / RATE)
    soundfile.write(media / "music" / "fades.wav", np.where(np.arange(15 * RATE) < 10 * RATE, tone, 0), RATE)
    (media / "music.csv").write_text("file,clip_id,genre,start_s,duration_s\nfades.wav,a tone,K,0,5\n")
    build(lake, media)
    assert metadata(lake, "expansion_windows", "unusable") == [0, 1, 0]
    (told,) = filter(None, metadata(lake, "expansion_windows", "why_unusable"))
    assert told == "silent audio: no sample above 0.0001 of full scale (1: fades.wav#t=10.0+5.0)"
