"""Valence, arousal and an emotion for unlabelled media.

Belongs here: making the rows of `predicted_emotion` from the inventory, the tags, the features and the
heads. The rule for music is in `music_rule`, the heads are `music_head` and `image_head`.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS
from emid_assets.affect.nearest import nearest_image_emotions, nearest_music_emotions
from emid_assets.affect.tag_shares import assigned_tags, image_tag_shares
from emid_assets.media.with_predictions import PREDICTED, unlabelled
from emid_assets.prediction.image_blocks import ImageBlocks
from emid_assets.prediction.image_head import ImageEmotionHead
from emid_assets.prediction.music_head import MIN_CLIPS, MOST_CLIPS, MusicEmotionHead
from emid_assets.prediction.music_rule import predict_music, shipped_reference
from emid_assets.store.schemas import IMAGE_FEATURES, PREDICTED_EMOTION, TAG_SHARES_TYPE

MIN_RATED = 40
"""Smallest number of rated images for training a head and for assigning a tag to an unlabelled image."""

Floats = NDArray[np.float64]


def rated_images(inventory: pl.DataFrame) -> pl.DataFrame:
    """The usable images of an inventory (MEDIA_INVENTORY) whose valence and arousal were measured."""
    return inventory.filter(
        (pl.col("kind") == "image") & (pl.col("va_source") == "measured") & pl.col("reason").is_null()
    )


def rated_clips(inventory: pl.DataFrame) -> pl.DataFrame:
    """The rated clips that a head for music learns from; none if it would learn from too few, or for nothing.

    Clips cut from a rated source have that source's ratings and are left out. Of many clips, those whose
    contents have the first hashes are taken, so that the choice stays the same as clips are added.

    Args:
        inventory: frame MEDIA_INVENTORY.
    """
    rated = inventory.filter(
        (pl.col("kind") == "music")
        & (pl.col("va_source") == "ratings")
        & pl.col("reason").is_null()
        & pl.col("is_original_clip").fill_null(True)
    )
    if rated.height < MIN_CLIPS or unrated_clips(inventory).is_empty():
        return inventory.clear()
    return rated.sort("content_hash", "item_id").head(MOST_CLIPS)


def unrated_clips(inventory: pl.DataFrame) -> pl.DataFrame:
    """The usable clips of an inventory (MEDIA_INVENTORY) with neither a label nor ratings."""
    return unlabelled(inventory).filter((pl.col("kind") == "music") & pl.col("valence").is_null())


def too_few_rated(count: int) -> str | None:
    """Why no emotion can be predicted for an image without a label; None if enough images are rated."""
    if count >= MIN_RATED:
        return None
    return (
        f"has no label, and predicting one needs {MIN_RATED} images with valence and arousal in images.csv: "
        f"there are {count}"
    )


def predict_emotion(
    inventory: pl.DataFrame,
    music_tags: pl.DataFrame,
    blocks: ImageBlocks | None,
    head: ImageEmotionHead | None,
    music_head: MusicEmotionHead | None = None,
) -> pl.DataFrame:
    """A row for each medium of the inventory that lacks only a label.

    A clip's valence and arousal are its own ratings, or else predicted from its tags: by the head for music,
    or by the rule where there is no such head. An image's are its own, or else predicted by the head for
    images. The label is the emotion nearest to them; for predicted images it is assigned such that the tags
    are as frequent as their shares say.

    Args:
        inventory: frame MEDIA_INVENTORY.
        music_tags: frame MUSIC_TAGS, with a row for each clip that has neither label nor ratings.
        blocks: features of each image that has neither label nor ratings; None if there are none.
        head: None if too few images are rated.
        music_head: None if too few clips are rated.

    Returns:
        Frame PREDICTED_EMOTION, by kind and id.
    """
    media = unlabelled(inventory).select("kind", "item_id", "content_hash", "valence", "arousal", "va_source")
    parts = [PREDICTED_EMOTION.empty()]

    clips = media.filter(pl.col("kind") == "music")
    rated = clips.filter(pl.col("valence").is_not_null())
    parts.append(_labelled(rated, nearest_music_emotions(_points(rated))))
    tagged, log_odds, failed = _with_vectors(clips.filter(pl.col("valence").is_null()), music_tags)
    parts.append(failed)
    if tagged.height:
        if music_head is None:
            va, sd = predict_music(log_odds, shipped_reference())
        else:
            va, sd = music_head.predict(log_odds)
        parts.append(_labelled(_predicted(tagged, va, sd), nearest_music_emotions(va)))

    images = media.filter(pl.col("kind") == "image")
    known = rated_images(inventory).select("valence", "arousal").to_numpy()
    reason = too_few_rated(len(known))
    if reason is not None:
        parts.append(
            _rows(images.drop("valence", "arousal", "va_source").with_columns(reason=pl.lit(reason)))
        )
    else:
        centre, spread = known.mean(axis=0), np.maximum(known.std(axis=0), 1e-6)
        rated = images.filter(pl.col("valence").is_not_null())
        parts.append(_labelled(rated, nearest_image_emotions(_points(rated), centre, spread)))
        described = IMAGE_FEATURES.empty() if blocks is None else blocks.frame.drop("text")
        seen, features, failed = _with_vectors(images.filter(pl.col("valence").is_null()), described)
        parts.append(failed)
        if head is not None and seen.height:
            va, sd = head.predict(features)
            shares = image_tag_shares(va, sd, centre, spread, _labelled_images(inventory))
            with_shares = _predicted(seen, va, sd).with_columns(tag_shares=_told(shares))
            parts.append(_labelled(with_shares, assigned_tags(shares)))
    return pl.concat(parts).sort("kind", "item_id")


def _labelled_images(inventory: pl.DataFrame) -> dict[str, int]:
    """Tag → usable images that people gave this tag."""
    by_people = inventory.filter(
        (pl.col("kind") == "image")
        & pl.col("partition").is_not_null()
        & pl.col("reason").is_null()
        & (pl.col("label_source") != PREDICTED).fill_null(True)
    )
    return dict(by_people.group_by("partition").len().iter_rows())


def _told(shares: Floats) -> pl.Series:
    """Rows of shares as the column `tag_shares`."""
    rows = [
        [{"tag": tag, "share": share} for tag, share in zip(IMAGE_EMOTION_KEYS, row, strict=True)]
        for row in shares.tolist()
    ]
    return pl.Series("tag_shares", rows, dtype=TAG_SHARES_TYPE)


def _points(items: pl.DataFrame) -> Floats:
    return items.select("valence", "arousal").to_numpy()


def _with_vectors(
    items: pl.DataFrame, table: pl.DataFrame
) -> tuple[pl.DataFrame, NDArray[np.float32], pl.DataFrame]:
    """The items that have a vector, those vectors, and rows of PREDICTED_EMOTION for the others."""
    id_column, _, vector, _ = table.columns
    described = table.select(pl.col(id_column).alias("item_id"), pl.col(vector).alias("vector"), "reason")
    joined = items.join(described, on="item_id", how="left", maintain_order="left")
    found = joined.filter(pl.col("vector").is_not_null())
    failed = joined.filter(pl.col("vector").is_null()).drop("vector", "valence", "arousal", "va_source")
    vectors = found["vector"].to_numpy() if found.height else np.empty((0, 1), np.float32)
    return found.drop("vector", "reason"), vectors, _rows(failed)


def _predicted(items: pl.DataFrame, va: Floats, sd: Floats) -> pl.DataFrame:
    return items.with_columns(
        pl.Series("valence", va[:, 0], dtype=pl.Float64),
        pl.Series("arousal", va[:, 1], dtype=pl.Float64),
        pl.Series("valence_sd", sd[:, 0], dtype=pl.Float64),
        pl.Series("arousal_sd", sd[:, 1], dtype=pl.Float64),
        va_source=pl.lit(PREDICTED),
    )


def _labelled(items: pl.DataFrame, labels: list[str]) -> pl.DataFrame:
    return _rows(items.with_columns(pl.Series("partition", labels, dtype=pl.String)))


def _rows(items: pl.DataFrame) -> pl.DataFrame:
    """Rows of PREDICTED_EMOTION, null in every column that `items` lacks."""
    schema = PREDICTED_EMOTION.empty().schema
    absent = {name: pl.lit(None, dtype) for name, dtype in schema.items() if name not in items.columns}
    return PREDICTED_EMOTION.check(items.with_columns(**absent).select(list(schema)))
