"""From tags, features and a head to an emotion for every medium without a label."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTION_KEYS
from emid_assets.affect.nearest import nearest_music_emotions
from emid_assets.affect.tag_shares import assigned_tags, image_tag_shares
from emid_assets.encoders.embed import Earlier
from emid_assets.encoders.interface import Float32Array, MediaItem, PreparationError
from emid_assets.prediction.image_blocks import BUNDLED, Source, image_blocks
from emid_assets.prediction.image_head import fit_head
from emid_assets.prediction.music_rule import predict_music, shipped_reference
from emid_assets.prediction.predict import MIN_RATED, predict_emotion
from emid_assets.prediction.vectors import vectors_of
from emid_assets.store.schemas import IMAGE_FEATURES, MEDIA_INVENTORY, MUSIC_TAGS

RATED = MIN_RATED + 10
rng = np.random.default_rng(0)
FEATURES = rng.standard_normal((RATED + 3, 4)).astype(np.float32)
RATINGS = np.clip(0.5 + 0.2 * np.tanh(FEATURES[:RATED, :2]).astype(np.float64), 0, 1)
LOG_ODDS = rng.standard_normal((3, 100)).astype(np.float32) * 2


def inventory_of(rows: list[dict[str, object]]) -> pl.DataFrame:
    schema = MEDIA_INVENTORY.empty().schema
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def media(rated: int = RATED) -> pl.DataFrame:
    """Clips: given, tagged, rated, without tags. Images: rated with and without a tag, unrated, broken."""
    clips = [
        {"item_id": "given.wav", "partition": "sad", "valence": 5.17, "arousal": 4.49},
        {"item_id": "rated.wav", "valence": 3.6, "arousal": 4.4, "va_source": "ratings"},
        *({"item_id": f"tagged{place}.wav"} for place in range(3)),
        {"item_id": "silent.wav"},
        {"item_id": "broken.wav", "reason": "audio is empty"},
    ]
    images = [
        *(
            {
                "item_id": f"rated{place:03}.png", "partition": None if place == 0 else "awe",
                "source_id": str(place), "valence": RATINGS[place, 0], "arousal": RATINGS[place, 1],
                "va_source": "measured",
            }
            for place in range(rated)
        ),
        *({"item_id": f"new{place}.png"} for place in range(3)),
    ]  # fmt: skip
    return inventory_of(
        [{"kind": "music", "content_hash": row["item_id"], **row} for row in clips]
        + [{"kind": "image", "content_hash": row["item_id"], **row} for row in images]
    )


def table(schema: object, ids: list[str], vectors: Float32Array, reasons: dict[str, str]) -> pl.DataFrame:
    assert schema in (MUSIC_TAGS, IMAGE_FEATURES)
    columns = schema.empty(vectors.shape[1]).schema  # type: ignore[attr-defined]
    id_column, _, vector, _ = columns
    return pl.DataFrame(
        {
            id_column: [*ids, *reasons],
            "content_hash": [*ids, *reasons],
            vector: pl.Series([*vectors.tolist(), *[None] * len(reasons)], dtype=columns[vector]),
            "reason": [None] * len(ids) + list(reasons.values()),
        },
        schema=columns,
    )


TAGS = table(
    MUSIC_TAGS, [f"tagged{place}.wav" for place in range(3)], LOG_ODDS, {"silent.wav": "silent audio"}
)
SEEN = table(
    IMAGE_FEATURES,
    [*(f"rated{place:03}.png" for place in range(RATED)), "new0.png", "new1.png"],
    FEATURES[: RATED + 2],
    {"new2.png": "image is damaged"},
)
BLOCKS = image_blocks({BUNDLED: Source(SEEN, (4,), "f-1")})
HEAD = fit_head(FEATURES[:RATED], RATINGS, [str(place) for place in range(RATED)], BLOCKS).head


def test_every_unlabelled_medium_has_an_emotion_or_a_reason() -> None:
    found = predict_emotion(media(), TAGS, BLOCKS, HEAD)
    rows = {row["item_id"]: row for row in found.iter_rows(named=True)}
    assert rows.keys() == {
        "rated.wav", "tagged0.wav", "tagged1.wav", "tagged2.wav", "silent.wav",
        "rated000.png", "new0.png", "new1.png", "new2.png",
    }  # fmt: skip
    for row in rows.values():
        keys = MUSIC_EMOTION_KEYS if row["kind"] == "music" else IMAGE_EMOTION_KEYS
        assert (row["partition"] in keys) != (row["reason"] is not None)
    assert rows["silent.wav"]["reason"] == "silent audio"
    assert rows["new2.png"]["reason"] == "image is damaged"


def test_predicted_values_are_the_rules_and_the_heads_and_are_marked() -> None:
    found = predict_emotion(media(), TAGS, BLOCKS, HEAD)
    clips = found.filter(pl.col("item_id").str.starts_with("tagged"))
    va, sd = predict_music(LOG_ODDS, shipped_reference())
    np.testing.assert_array_equal(clips.select("valence", "arousal").to_numpy(), va)
    np.testing.assert_array_equal(clips.select("valence_sd", "arousal_sd").to_numpy(), sd)
    assert clips["partition"].to_list() == nearest_music_emotions(va)
    images = found.filter(pl.col("item_id").is_in(["new0.png", "new1.png"]))
    va, sd = HEAD.predict(FEATURES[RATED : RATED + 2])
    np.testing.assert_array_equal(images.select("valence", "arousal").to_numpy(), va)
    np.testing.assert_array_equal(images.select("valence_sd", "arousal_sd").to_numpy(), sd)
    labelled = {"awe": RATED - 1}
    shares = image_tag_shares(va, sd, RATINGS.mean(axis=0), RATINGS.std(axis=0), labelled)
    assert images["partition"].to_list() == assigned_tags(shares)
    told = [[row["share"] for row in rows] for rows in images["tag_shares"]]
    np.testing.assert_allclose(told, shares, rtol=1e-9)
    assert [row["tag"] for row in images["tag_shares"][0]] == list(IMAGE_EMOTION_KEYS)
    assert clips["tag_shares"].null_count() == clips.height
    assert set(clips["va_source"]) | set(images["va_source"]) == {"predicted"}


def test_measured_values_stay_and_only_the_label_is_found() -> None:
    found = {
        row["item_id"]: row for row in predict_emotion(media(), TAGS, BLOCKS, HEAD).iter_rows(named=True)
    }
    clip, image = found["rated.wav"], found["rated000.png"]
    assert (clip["valence"], clip["arousal"], clip["va_source"], clip["partition"]) == (
        3.6,
        4.4,
        "ratings",
        "scary",
    )
    assert (image["valence"], image["arousal"]) == tuple(RATINGS[0])
    assert (image["va_source"], image["valence_sd"]) == ("measured", None)


def test_with_too_few_rated_images_the_reason_says_how_many_are_needed() -> None:
    found = predict_emotion(media(rated=5), TAGS, None, None).filter(pl.col("kind") == "image")
    assert found["partition"].null_count() == found.height == 4
    assert f"needs {MIN_RATED} images" in found["reason"][0]
    assert "there are 5" in found["reason"][0]


def test_nothing_unlabelled_gives_nothing() -> None:
    labelled = media().filter(pl.col("partition").is_not_null())
    assert predict_emotion(labelled, MUSIC_TAGS.empty(), None, None).is_empty()


class Lengths:
    """A network that tells the length of an item's name, three times; it counts what it is given."""

    name, licence, dimension, fingerprint = "lengths", "none", 3, "lengths-1"

    def __init__(self) -> None:
        self.given = 0

    @property
    def prepare_music(self) -> object:
        def prepare(item: MediaItem) -> Float32Array:
            if "silent" in item.item_id:
                raise PreparationError("silent audio")
            return np.array([len(item.item_id), 1.7, 0.3], np.float32)

        return prepare

    prepare_image = music_input = prepare_music

    def encode_music(self, batch: list[Float32Array]) -> Float32Array:
        self.given += len(batch)
        return np.stack(batch)

    encode_images = encode_music


def test_vectors_are_kept_by_content_and_fingerprint_bit_for_bit(tmp_path: Path) -> None:
    names = ["a", "bb", "silent", "ccc"]
    items = [MediaItem(name, tmp_path / name, f"hash of {name}") for name in names]
    network = Lengths()
    first, encoded = vectors_of(items[:3], network, "music", MUSIC_TAGS, workers=0)  # type: ignore[arg-type]
    assert (encoded, first["clip_id"].to_list()) == (2, ["a", "bb", "silent"])
    assert first["reason"].to_list() == [None, None, "silent audio"]
    np.testing.assert_allclose(first["log_odds"][1].to_list(), [2, 1.7, 0.3], rtol=1e-6)
    for _ in range(3):
        second, encoded = vectors_of(
            items, network, "music", MUSIC_TAGS, Earlier(first, network.fingerprint), workers=0,  # type: ignore[arg-type]
        )  # fmt: skip
        assert second.filter(pl.col("clip_id").is_in(["a", "bb", "silent"])).equals(first)
    assert encoded == 1
    assert network.given == 2 + 3
    _, encoded = vectors_of(items, network, "music", MUSIC_TAGS, Earlier(first, "another"), workers=0)  # type: ignore[arg-type]
    assert encoded == 3


@pytest.mark.parametrize("count", [0, 1])
def test_a_table_may_hold_nothing_but_reasons(tmp_path: Path, count: int) -> None:
    items = [MediaItem("silent", tmp_path, "x")][:count]
    found, encoded = vectors_of(items, Lengths(), "music", MUSIC_TAGS, workers=0)  # type: ignore[arg-type]
    assert (found.height, encoded) == (count, 0)
    assert MUSIC_TAGS.differences(found) == []
