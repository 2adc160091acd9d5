"""What a query searches: files that follow the lake's versions, and give what the tables give."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from emid_assets.adapters import AdapterError
from emid_assets.adapters.adapted_embeddings import adapted_frame
from emid_assets.adapters.pair_data import pair_data
from emid_assets.adapters.run_files import save_run
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.training import train
from emid_assets.matching.fusion import Formula
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import image_alignment, on_plane
from emid_assets.search.index_files import searchable
from emid_assets.search.nearest import Catalogue, search_images
from emid_assets.search.query import nearest
from emid_assets.settings import Settings
from emid_assets.store.lake import Lake, LakeError
from emid_assets.store.layout import SEARCH_FOLDER
from emid_assets.store.schemas import EXPANDED_CLIPS, IMAGES, MUSIC_CLIPS, TableSchema
from emid_assets_tests.small_lake import SETTINGS, make_lake


@dataclass
class Built:
    lake: Lake
    frames: LakeTables
    images: pl.DataFrame
    adapted: pl.DataFrame
    weights: Path


def manifest(schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    empty = schema.empty().schema
    missing = [name for name in empty if name not in frame.columns]
    return frame.with_columns(pl.lit(None, dtype=empty[name]).alias(name) for name in missing).select(
        list(empty)
    )


@pytest.fixture
def built(tmp_path: Path) -> Built:
    frames, lake = make_lake(), Lake(tmp_path / "lake")
    images = frames.images.with_columns(
        file="images/" + pl.col("image_id"),
        valence=pl.Series(np.linspace(0.1, 0.9, frames.images.height)),
        arousal=pl.Series(np.linspace(0.9, 0.2, frames.images.height) ** 2),
    )
    clips = frames.music_clips.with_columns(file="music/" + pl.col("clip_id"), valence=5.0, arousal=5.0)
    lake.write("images", "awe", manifest(IMAGES, images.head(40)))
    lake.write("images", "fear", manifest(IMAGES, images.tail(-40)))
    lake.write("music_clips", "sad", manifest(MUSIC_CLIPS, clips))
    lake.write("expanded_clips", "sad", EXPANDED_CLIPS.empty(24))
    facts = {"encoder": "bundled", "fingerprint": "f1"}
    lake.write("image_embeddings", "awe", frames.image_embeddings, facts)
    lake.write("music_embeddings", "sad", frames.music_embeddings, facts)
    weights, sha256 = save_run(train("bmf", pair_data(frames, seed=0), SETTINGS), lake.root / "weights", {})
    adapter = TrainedAdapter.load(weights)
    lake.write("trained_adapter", "bmf", adapter.manifest_frame(f"weights/{weights.name}", sha256))
    adapted = adapted_frame(weights, frames.music_embeddings, frames.image_embeddings)
    lake.write("adapted_embeddings", "bmf", adapted)
    return Built(lake, frames, images, adapted, weights)


def query_vector() -> np.ndarray:
    vector = np.random.default_rng(4).normal(size=24).astype(np.float32)
    return vector / np.linalg.norm(vector)


def test_the_files_give_the_results_of_the_tables_with_file_and_label_beside_them(built: Built) -> None:
    plane = on_plane(built.images, "image_id", image_alignment(built.images, "standardize"))
    catalogue = Catalogue.of_frames(built.adapted, built.frames.image_embeddings, plane, "image")
    adapter = TrainedAdapter.load(built.weights)
    expected = search_images(adapter, query_vector(), 20.0, catalogue, 7, Formula.of(Settings()))
    for _ in range(2):  # made, then found again
        searched = searchable(built.lake, "image", "bmf", "standardize")
        found = nearest(searched, "music", query_vector(), 20.0, Settings(), 7)
        assert_frame_equal(found.select(expected.columns), expected, rel_tol=1e-6)
        assert found["file"].to_list() == ["images/" + image for image in found["item_id"]]
        tags = dict(built.images.select("image_id", "tag").iter_rows())
        assert found["label"].to_list() == [tags[image] for image in found["item_id"]]
    assert searched.built_with == {"encoder": "bundled", "fingerprint": "f1"}


def test_the_second_query_reads_no_table(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    searchable(built.lake, "image", "bmf", "standardize")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a table was read")

    monkeypatch.setattr("duckdb.connect", refuse)
    assert len(searchable(built.lake, "image", "bmf", "standardize").items) == 90


def test_a_build_makes_new_files_and_the_old_ones_go(built: Built) -> None:
    searchable(built.lake, "image", "bmf", "standardize")
    searchable(built.lake, "music", "bmf", "standardize")
    renamed = built.images.tail(-40).with_columns(file="moved/" + pl.col("image_id"))
    built.lake.write("images", "fear", manifest(IMAGES, renamed))
    again = searchable(built.lake, "image", "bmf", "standardize")
    assert again.items["file"].str.starts_with("moved/").sum() == 50
    kinds = sorted(path.name.partition("-")[0] for path in (built.lake.root / SEARCH_FOLDER).iterdir())
    assert kinds == ["image", "music"]
    searchable(built.lake, "image", "bmf", "fixed")
    assert len(list((built.lake.root / SEARCH_FOLDER).glob("image-*"))) == 1


def test_a_lake_that_cannot_be_written_to_is_searched_all_the_same(built: Built) -> None:
    (built.lake.root / SEARCH_FOLDER).write_text("in the way")
    assert len(searchable(built.lake, "image", "bmf", "standardize").items) == 90
    shutil.rmtree(built.lake.root / "tables" / "adapted_embeddings")
    with pytest.raises(LakeError, match="adapted_embeddings"):
        searchable(built.lake, "image", "bmf", "standardize")


def test_an_image_that_came_after_the_adapted_embeddings_is_named(built: Built) -> None:
    built.lake.write("adapted_embeddings", "bmf", built.adapted.filter(pl.col("item_id") != "image 017"))
    with pytest.raises(AdapterError, match="image 'image 017' has no adapted embedding of bmf"):
        searchable(built.lake, "image", "bmf", "standardize")
