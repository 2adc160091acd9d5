"""EMID's own table: its columns for any number of images, and its cells.

Belongs here: names and texts, from frames to frames. Reading the published files is
`emid_source`'s, the folder of a release is `emid_release`'s.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from emid_assets.affect.emotions import RATINGS

AUDIO_COLUMN = "Audio_Filename"
LABEL_COLUMNS = ("genre", "feeling", "emotion")
ORIGINAL_COLUMN = "is_original_clip"
IMAGE_PARTS = ("filename", "tag", "text")
EXPANDED_MARK = "___"
"""What precedes the number in the name of an expanded clip, such as `3143.m4a___58`."""

MISSING = "nan"


def image_columns(slot: int) -> tuple[str, str, str]:
    """The three columns of the image at `slot`, counted from 1: file name, tag, caption."""
    filename, tag, text = (f"Image{slot}_{part}" for part in IMAGE_PARTS)
    return filename, tag, text


def emid_columns(images_per_clip: int) -> list[str]:
    """All columns in EMID's order; EMID itself has three images."""
    slots = [name for slot in range(1, images_per_clip + 1) for name in image_columns(slot)]
    return [AUDIO_COLUMN, *LABEL_COLUMNS, *slots, ORIGINAL_COLUMN]


def feeling_texts(clips: pl.DataFrame) -> pl.Series:
    """The `feeling` cells of clips (MUSIC_CLIPS), such as `33% Sad, depressing`; null for an unrated clip."""
    texts = [
        ", ".join(f"{_shortest(feeling['percent'])}% {feeling['feeling']}" for feeling in cell)
        if cell
        else None
        for cell in clips["feelings"].to_list()
    ]
    return pl.Series("feeling", texts, dtype=pl.String)


def _shortest(percent: float) -> str:
    """The fewest digits that give the same float32 again: `33`, not `33.0`."""
    return np.format_float_positional(np.float32(percent), trim="-")


def emotion_texts(clips: pl.DataFrame) -> pl.Series:
    """The `emotion` cells of clips (MUSIC_CLIPS): the 11 ratings, comma-separated.

    `nan` where a rating is missing; null for a clip that has none at all. Valence and arousal have all the
    digits that the clip's position has.
    """
    placed = has_both_ratings() & (pl.col("va_source") == "ratings")
    ratings = [pl.col(f"rating_{name}") for name in RATINGS]
    texts = [
        pl.when(placed).then(pl.col(name).cast(pl.String)).otherwise(rating.fill_nan(None).cast(pl.String))
        if name in ("valence", "arousal")
        else rating.fill_nan(None).cast(pl.String)
        for name, rating in zip(RATINGS, ratings, strict=True)
    ]
    return clips.select(
        pl.when(pl.any_horizontal(rating.is_not_null() for rating in ratings))
        .then(pl.concat_str([text.fill_null(MISSING) for text in texts], separator=","))
        .alias("emotion")
    ).to_series()


def has_both_ratings() -> pl.Expr:
    """Whether a clip (MUSIC_CLIPS) has ratings of both valence and arousal, which are its position then."""
    return pl.col("rating_valence").is_not_null() & pl.col("rating_arousal").is_not_null()


def emid_table(
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    pairs: pl.DataFrame,
    clip_files: Mapping[str, str],
    image_files: Mapping[str, str],
    images_per_clip: int,
) -> pl.DataFrame:
    """The data set as EMID's table: one row for each clip that has pairs, by letter and id.

    Args:
        music_clips: frame MUSIC_CLIPS.
        images: frame IMAGES.
        pairs: clip_id, image_id, rank from 1.
        clip_files: clip id → file name to write.
        image_files: image id → file name to write.
        images_per_clip: m, the number of image slots; a clip with fewer pairs leaves some null.

    Returns:
        The columns of `emid_columns`, text but for `is_original_clip`; and `clip_id`, first.
    """
    names = pl.col("image_id").replace_strict(image_files, default=None, return_dtype=pl.String)
    facts = images.select("image_id", names.alias("filename"), "tag", pl.col("caption").alias("text"))
    shown = pairs.select("clip_id", "image_id", "rank").join(facts, on="image_id")
    table = (
        music_clips.with_columns(
            feeling_texts(music_clips),
            emotion_texts(music_clips),
            pl.col("clip_id")
            .replace_strict(clip_files, default=None, return_dtype=pl.String)
            .alias(AUDIO_COLUMN),
        )
        .filter(pl.col(AUDIO_COLUMN).is_not_null())
        .select("clip_id", AUDIO_COLUMN, *LABEL_COLUMNS, ORIGINAL_COLUMN)
        .sort("genre", "clip_id")
    )
    for slot in range(1, images_per_clip + 1):
        renamed = dict(zip(IMAGE_PARTS, image_columns(slot), strict=True))
        of_slot = shown.filter(pl.col("rank") == slot).select("clip_id", *IMAGE_PARTS).rename(renamed)
        table = table.join(of_slot, on="clip_id", how="left", maintain_order="left")
    return table.select("clip_id", *emid_columns(images_per_clip))
