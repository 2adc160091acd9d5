"""Exact search with a clip or an image that the data set has never seen."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emid_assets.adapters import NETWORKS, AdapterError
from emid_assets.adapters.adapted_embeddings import adapted_frame
from emid_assets.adapters.pair_data import pair_data
from emid_assets.adapters.trained_adapter import TrainedAdapter
from emid_assets.adapters.training import train
from emid_assets.affect.valence_arousal import emotional_similarity
from emid_assets.media.lake_tables import LakeTables
from emid_assets.search.nearest import Catalogue, search_images, search_music
from emid_assets_tests.small_lake import DIMENSION, FORMULA, SETTINGS, make_lake


@pytest.fixture(scope="module")
def lake() -> LakeTables:
    return make_lake()


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def trained(
    request: pytest.FixtureRequest, lake: LakeTables, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedAdapter, pl.DataFrame]:
    path = tmp_path_factory.mktemp("weights") / "w"
    train(request.param, pair_data(lake, seed=0, formula=FORMULA), SETTINGS).save(path)
    frame = adapted_frame(path, lake.music_embeddings, lake.image_embeddings, image_va=lake.image_va)
    return TrainedAdapter.load(path), frame


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


def test_results_are_those_of_a_full_sort_with_s_e_and_t_beside_them(
    lake: LakeTables, trained: tuple[TrainedAdapter, pl.DataFrame]
) -> None:
    adapter, adapted = trained
    images = Catalogue.of_frames(adapted, lake.image_embeddings, lake.image_va, "image")
    embedding, va = unit(0), np.array([0.3, -0.4])
    found = search_images(adapter, embedding, 20.0, images, 10, FORMULA, va)
    assert found["rank"].to_list() == list(range(1, 11))

    frozen = lake.image_embeddings.sort("image_id")
    plane = frozen.join(lake.image_va, on="image_id", how="left", maintain_order="left")
    p, _ = adapter.embed(
        [""], embedding[None], frozen["image_id"].to_list(), frozen["embedding"].to_numpy(),
        plane.select("valence", "arousal").to_numpy(),
    )  # fmt: skip
    query = p[0].astype(np.float64)
    by_id = dict(adapted.filter(kind="image").select("item_id", "embedding").iter_rows())
    score = {image: float(np.asarray(vector, dtype=np.float64) @ query) for image, vector in by_id.items()}
    best = sorted(score, key=lambda image: (-score[image], image))[:10]
    assert found["item_id"].to_list() == best
    np.testing.assert_allclose(found["score"], [score[image] for image in best], rtol=1e-4)

    exponent = np.exp(20.0 * (frozen["embedding"].to_numpy().astype(np.float64) @ embedding))
    S = dict(zip(frozen["image_id"], exponent / exponent.sum(), strict=True))
    np.testing.assert_allclose(found["semantic_similarity"], [S[image] for image in best], rtol=1e-4)
    point = {image: (v, a) for image, v, a, *_ in lake.image_va.iter_rows()}
    E = [float(emotional_similarity(va, point[image])) for image in best]
    np.testing.assert_allclose(found["emotional_similarity"], E, atol=1e-9)

    strongest = np.sort(exponent)[::-1][:20]
    rescaled = [
        max(0.0, (S[image] * exponent.sum() - strongest[-1]) / (strongest[0] - strongest[-1]))
        for image in best
    ]
    np.testing.assert_allclose(found["fused_score"], 0.6 * np.array(rescaled) + 0.4 * np.array(E), atol=1e-4)


def test_an_image_finds_clips_the_same_way(
    lake: LakeTables, trained: tuple[TrainedAdapter, pl.DataFrame]
) -> None:
    adapter, adapted = trained
    music = Catalogue.of_frames(adapted, lake.music_embeddings, lake.music_va, "music")
    embedding = unit(1)
    found = search_music(adapter, embedding, 1.0, music, 5, FORMULA)
    scores = music.adapted.astype(np.float64) @ adapter.embed_images(embedding[None])[0]
    assert found["item_id"].to_list() == music.ids.gather(np.argsort(-scores, kind="stable")[:5]).to_list()
    assert found["emotional_similarity"].is_between(0, 1).all()


def test_valence_and_arousal_are_read_from_the_embedding_where_they_are_not_given(
    lake: LakeTables, trained: tuple[TrainedAdapter, pl.DataFrame]
) -> None:
    adapter, adapted = trained
    images = Catalogue.of_frames(adapted, lake.image_embeddings, lake.image_va, "image")
    va = adapter.music_reader.read(adapter.projection.music(unit(2)[None]))[0].astype(np.float64)
    given = search_images(adapter, unit(2), 20.0, images, 5, FORMULA, va)
    assert given.equals(search_images(adapter, unit(2), 20.0, images, 5, FORMULA))


def test_fewer_items_than_asked_for_gives_them_all(
    lake: LakeTables, trained: tuple[TrainedAdapter, pl.DataFrame]
) -> None:
    adapter, adapted = trained
    few = lake.image_embeddings.sort("image_id").head(4)
    images = Catalogue.of_frames(adapted, few, lake.image_va, "image")
    assert search_images(adapter, unit(0), 20.0, images, 10, FORMULA).height == 4


def test_two_networks_at_once_and_items_without_new_embeddings_are_refused(
    lake: LakeTables, trained: tuple[TrainedAdapter, pl.DataFrame], tmp_path: Path
) -> None:
    _, adapted = trained
    both = pl.concat([adapted, adapted.with_columns(network=pl.lit("other"))])
    with pytest.raises(AdapterError, match="one network can be searched at a time, not 2"):
        Catalogue.of_frames(both, lake.image_embeddings, lake.image_va, "image")
    renamed = lake.image_embeddings.with_columns(image_id="new " + pl.col("image_id"))
    with pytest.raises(AdapterError, match="has no adapted embedding"):
        Catalogue.of_frames(adapted, renamed, lake.image_va, "image")
