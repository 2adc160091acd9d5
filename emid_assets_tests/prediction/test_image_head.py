"""The head: which features it uses, words included, and how it is stored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from emid_assets.prediction import image_head
from emid_assets.prediction.gaussian_process import figures_of, fit_process
from emid_assets.prediction.image_blocks import BUNDLED, ENCODER, TEXT, ImageBlocks, Source, image_blocks
from emid_assets.prediction.image_head import (
    FEW_IMAGES,
    LEARNING_CURVE,
    ImageEmotionHead,
    few_images,
    fit_head,
    head_frame,
    validate_head,
)
from emid_assets.store.schemas import IMAGE_EMOTION_HEAD, IMAGE_FEATURES, IMAGE_TEXT_FEATURES
from emid_assets_tests.prediction.test_gaussian_process import BLOCKS, rated

Floats = NDArray[np.float64]


def features_table(ids: Sequence[str], features: Floats, without: str = "") -> pl.DataFrame:
    """IMAGE_FEATURES, in the opposite order; one image could not be read."""
    schema = IMAGE_FEATURES.empty(features.shape[1]).schema
    found = [None if name == without else row for name, row in zip(ids, features.tolist(), strict=True)]
    reasons = ["image is damaged" if name == without else None for name in ids]
    table = pl.DataFrame(
        {"image_id": ids, "content_hash": ids, "features": found, "reason": reasons}, schema=schema
    )
    return table.reverse()


def texts_table(ids: Sequence[str], vectors: Floats) -> pl.DataFrame:
    schema = IMAGE_TEXT_FEATURES.empty(vectors.shape[1]).schema
    return pl.DataFrame(
        {"image_id": ids, "text": ids, "text_source": ["caption"] * len(ids), "features": vectors.tolist()},
        schema=schema,
    )


def with_words(n: int, worded: int, helpful: bool) -> tuple[ImageBlocks, NDArray[np.float32], Floats]:
    """Blocks of which the words of the first `worded` images tell much of valence, or nothing."""
    features, ratings, _ = rated(n, noise=0.02)
    rng = np.random.default_rng(7)
    words = rng.standard_normal((n, 3))
    if helpful:
        ratings = np.clip(ratings + 0.15 * np.tanh(words[:, :1]), 0, 1)
    ids = [f"{place:03}.png" for place in range(n)]
    blocks = image_blocks(
        {BUNDLED: Source(features_table(ids, features), BLOCKS, "f-1")},
        Source(texts_table(ids[:worded], words[:worded]), (3,), "t-1"),
    )
    return blocks, blocks.frame.sort("image_id")["features"].to_numpy(), ratings


def test_the_columns_are_those_of_each_source_and_words_that_are_absent_are_unknown() -> None:
    blocks, matrix, _ = with_words(30, 20, helpful=True)
    assert blocks.sources == {BUNDLED: BLOCKS, TEXT: (3,)}
    assert blocks.columns_of([TEXT]) == [6, 7, 8]
    assert blocks.columns_of([TEXT, BUNDLED]) == [6, 7, 8, 0, 1, 2, 3, 4, 5]
    assert not np.isnan(matrix[:20]).any()
    assert np.isnan(matrix[20:, 6:]).all()
    assert not np.isnan(matrix[:, :6]).any()


def test_words_help_the_images_that_have_some_and_never_touch_the_others() -> None:
    blocks, matrix, ratings = with_words(160, 120, helpful=True)
    groups = [str(place) for place in range(160)]
    kept = [place for place in range(160) if place % 4]
    fitted = fit_head(matrix[kept], ratings[kept], [groups[place] for place in kept], blocks)
    assert fitted.sources == (BUNDLED, TEXT)
    va, sd = fitted.head.predict(matrix)
    wordless = matrix.copy()
    wordless[:, 6:] = np.nan
    plain, _ = fit_process(matrix[kept][:, :6], ratings[kept], [groups[place] for place in kept], BLOCKS)
    without = np.clip(plain.predict(matrix[:, :6])[0], 0, 1)
    np.testing.assert_array_equal(fitted.head.predict(wordless)[0], without)
    np.testing.assert_array_equal(va[120:], without[120:])
    unseen = np.arange(0, 120, 4)
    errors = {
        name: np.mean((found[unseen, 0] - ratings[unseen, 0]) ** 2)
        for name, found in (("with", va), ("without", without))
    }
    assert errors["with"] < 0.7 * errors["without"]
    assert (sd > 0).all()


def test_words_that_tell_nothing_are_not_used() -> None:
    blocks, matrix, ratings = with_words(120, 120, helpful=False)
    fitted = fit_head(matrix, ratings, [str(place) for place in range(120)], blocks)
    assert fitted.sources == (BUNDLED,)
    assert fitted.head.worded is None


@pytest.mark.parametrize(("bundled", "encoder", "sources"), [
    (True, False, (BUNDLED,)), (False, True, (ENCODER,)), (True, True, (BUNDLED, ENCODER)),
])  # fmt: skip
def test_of_two_networks_the_head_uses_what_cross_validates_best(
    bundled: bool, encoder: bool, sources: tuple[str, ...]
) -> None:
    """Each network tells one axis, or nothing but noise."""
    features, ratings, groups = rated(150, noise=0.02)
    noise = np.random.default_rng(3).standard_normal((150, 6))
    ids = [f"{place:03}.png" for place in range(150)]
    half = features.copy(), features.copy()
    half[0][:, 2] = half[1][:, :2] = 0  # without what tells arousal; without what tells valence
    of_bundled = half[0] if bundled and encoder else features if bundled else noise
    of_encoder = half[1] if bundled and encoder else features if encoder else noise
    blocks = image_blocks({
        BUNDLED: Source(features_table(ids, of_bundled), (6,), "f-1"),
        ENCODER: Source(features_table(ids, of_encoder), (6,), "e-1"),
    })  # fmt: skip
    matrix = blocks.frame.sort("image_id")["features"].to_numpy()
    fitted = fit_head(matrix, ratings, groups, blocks)
    assert fitted.sources == sources
    assert blocks.fingerprint == "f-1|e-1"
    columns = blocks.columns_of(sources)
    process, _ = fit_process(matrix[:, columns], ratings, groups, (6,) * len(sources))
    np.testing.assert_array_equal(
        fitted.head.predict(matrix)[0], np.clip(process.predict(matrix[:, columns])[0], 0, 1)
    )


def test_an_image_that_one_network_cannot_read_has_no_features_and_the_reason() -> None:
    features, _, _ = rated(4)
    ids = ["a", "b", "c", "d"]
    blocks = image_blocks({
        BUNDLED: Source(features_table(ids, features), (6,), "f"),
        ENCODER: Source(features_table(ids, features, without="c"), (6,), "e"),
    })  # fmt: skip
    row = blocks.frame.filter(pl.col("image_id") == "c").row(0, named=True)
    assert (row["features"], row["reason"]) == (None, "image is damaged")
    assert blocks.frame["features"].null_count() == blocks.frame["reason"].count() == 1


def test_few_images_are_told_what_a_head_on_few_images_can_do() -> None:
    assert few_images(FEW_IMAGES) is None
    told = few_images(57)
    assert told is not None
    assert "57 rated images" in told
    assert all(f"{n}: " in told for n in LEARNING_CURVE)


def lake_frames(n: int, without: str = "") -> tuple[pl.DataFrame, ImageBlocks, Floats, Floats, list[str]]:
    """Rows of the inventory and the features, in different orders, and the arrays that they hold."""
    features, ratings, groups = rated(n)
    ids = [f"{place:03}.png" for place in range(n)]
    blocks = image_blocks({BUNDLED: Source(features_table(ids, features, without), BLOCKS, "f-1")})
    inventory = pl.DataFrame(
        {"item_id": ids, "source_id": groups, "valence": ratings[:, 0], "arousal": ratings[:, 1]}
    )
    return inventory, blocks, features, ratings, groups


def test_a_head_is_stored_under_its_content_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    inventory, blocks, features, ratings, groups = lake_frames(30, without="003.png")
    row = head_frame(inventory, blocks, 0, tmp_path / "weights")
    assert IMAGE_EMOTION_HEAD.differences(row) == []
    assert (row["images"][0], row["groups"][0], row["grouped_by"][0]) == (29, 29, "series")
    kept = [place for place in range(30) if place != 3]
    matrix = features[kept].astype(np.float32)
    kept_groups = [groups[place] for place in kept]
    expected = fit_head(matrix, ratings[kept], kept_groups, blocks).head
    read = ImageEmotionHead.load(tmp_path / row["weights_file"][0])
    for found, wanted in zip(read.predict(matrix), expected.predict(matrix), strict=True):
        np.testing.assert_array_equal(found, wanted)
    validation = validate_head(matrix, ratings[kept], kept_groups, blocks, 0)
    assert (row["features"][0], row["with_words"][0]) == ("bundled", 0)
    assert row["valence_r"][0] == figures_of(validation.va, ratings[kept])["valence_r"]


def test_a_head_is_trained_anew_only_where_what_it_learnt_from_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory, blocks, *_ = lake_frames(30)
    first = head_frame(inventory, blocks, 0, tmp_path / "weights")
    with monkeypatch.context() as patched:
        patched.setattr(image_head, "fit_head", None)
        kept = head_frame(inventory.sample(fraction=1, shuffle=True), blocks, 0, tmp_path / "weights", first)
    assert kept.equals(first)
    file = tmp_path / first["weights_file"][0]
    again = head_frame(inventory, blocks, 0, tmp_path / "weights")
    assert again.equals(first)
    rated_anew = inventory.with_columns(valence=pl.lit(0.5) + 0.1 * pl.col("arousal"))
    second = head_frame(rated_anew, blocks, 0, tmp_path / "weights", first)
    assert second["weights_sha256"][0] != first["weights_sha256"][0]
    assert file.exists()  # the stored table names it until the new row is stored
    third = head_frame(inventory.head(25), blocks, 0, tmp_path / "weights", second)
    assert not file.exists()
    assert (tmp_path / second["weights_file"][0]).exists()
    (tmp_path / third["weights_file"][0]).unlink()
    assert head_frame(inventory.head(25), blocks, 0, tmp_path / "weights", third).equals(third)


def test_many_rated_images_are_learnt_from_by_a_fixed_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_head, "MOST_IMAGES", 20)
    inventory, blocks, *_ = lake_frames(30)
    row = head_frame(inventory, blocks, 0, tmp_path / "weights")
    assert row["images"][0] == 20
    assert head_frame(inventory.reverse(), blocks, 0, tmp_path / "weights").equals(row)


def test_without_features_there_is_no_head(tmp_path: Path) -> None:
    inventory, blocks, *_ = lake_frames(5)
    assert head_frame(inventory.clear(), blocks, 0, tmp_path / "weights").is_empty()
    assert list(tmp_path.iterdir()) == []


def test_a_head_with_words_is_read_back_bit_for_bit_and_learns_anew_from_other_words(tmp_path: Path) -> None:
    blocks, matrix, ratings = with_words(40, 35, helpful=True)
    ids = [f"{place:03}.png" for place in range(40)]
    inventory = pl.DataFrame(
        {"item_id": ids, "source_id": ids, "valence": ratings[:, 0], "arousal": ratings[:, 1]}
    )
    row = head_frame(inventory, blocks, 0, tmp_path / "weights")
    assert (row["features"][0], row["with_words"][0]) == ("bundled + text", 35)
    expected = fit_head(matrix, ratings, ids, blocks).head
    read = ImageEmotionHead.load(tmp_path / row["weights_file"][0])
    for found, wanted in zip(read.predict(matrix), expected.predict(matrix), strict=True):
        np.testing.assert_array_equal(found, wanted)
    renamed = blocks.frame.with_columns(pl.col("text").str.replace("001", "999"))
    other = ImageBlocks(renamed, blocks.sources, blocks.fingerprint)
    assert (
        head_frame(inventory, other, 0, tmp_path / "weights", row)["learnt_from"][0] != row["learnt_from"][0]
    )
