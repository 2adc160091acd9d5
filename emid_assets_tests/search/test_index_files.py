"""What a query searches: files that follow the lake's versions, and give what the tables give."""

import shutil

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from emid_assets.adapters import AdapterError
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.matching.fusion import Formula
from emid_assets.media.va_plane import image_alignment, on_plane
from emid_assets.search.index_files import searchable
from emid_assets.search.nearest import Catalogue, search_images
from emid_assets.search.query import nearest
from emid_assets.settings import Settings
from emid_assets.store.lake import LakeError
from emid_assets.store.layout import SEARCH_FOLDER
from emid_assets.store.schemas import IMAGES
from emid_assets_tests.search.conftest import Built, manifest


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
