"""The report's section on emotion that was predicted, and the warning about it at the top.

Belongs here: counts of given and predicted, the head's cross-validation, and the pairs split by whether
their two sides are given. The markup is `predicted.html.j2` beside this file.
"""

from collections.abc import Mapping

import polars as pl

from emid_assets.media.with_predictions import PREDICTED, is_by_program
from emid_assets.prediction.image_head import few_images

_MEANING = {
    "ratings": "the clip's own ratings",
    "category_mean": "the mean of the clip's category",
    "measured": "the image's own measurement",
    "tag": "the image's tag",
    PREDICTED: "predicted",
}


def is_predicted() -> pl.Expr:
    """Whether anything about a clip's or an image's emotion was predicted: its label, or its VA."""
    return ((pl.col("label_source") == PREDICTED) | is_by_program()).fill_null(False)


def predicted_clips(music_clips: pl.DataFrame) -> frozenset[str]:
    """Ids of the clips (MUSIC_CLIPS) whose emotion was predicted."""
    return frozenset(music_clips.filter(is_predicted())["clip_id"])


def predicted_section(
    music_clips: pl.DataFrame, images: pl.DataFrame, fused_pairs: pl.DataFrame, head: pl.DataFrame
) -> dict[str, object] | None:
    """What the section shows; None where nothing was predicted and there is no head.

    Args:
        music_clips: frame MUSIC_CLIPS.
        images: frame IMAGES.
        fused_pairs: frame FUSED_PAIRS.
        head: frame IMAGE_EMOTION_HEAD, at most one row.

    Returns:
        `sources`: rows of kind, label, source of valence and arousal, items, and the mean deviations
        told; `pairs`: rows of clip, image (given, predicted, or rated with a label derived from the
        ratings), pairs and mean E; `head`: its row with
        `calibration` as rows of nominal, valence, arousal, or None; `few`: a doubt about a head on few
        images, or None.
    """
    sources = []
    for kind, frame in (("music", music_clips), ("images", images)):
        grouped = (
            frame.with_columns(label=_told_apart(pl.lit("derived from the ratings")))
            .group_by("label", "va_source")
            .agg(pl.len().alias("n"), pl.col("valence_sd").mean(), pl.col("arousal_sd").mean())
            .sort("label", "va_source")
        )
        sources += [
            {"kind": kind, **row, "meaning": _MEANING.get(row["va_source"], row["va_source"])}
            for row in grouped.iter_rows(named=True)
        ]
    predicted = any(row["label"] != "given" for row in sources)
    if not predicted and head.is_empty():
        return None
    side = _told_apart(pl.lit("rated, label derived"))
    pairs = (
        fused_pairs.join(music_clips.select("clip_id", side.alias("clip")), on="clip_id")
        .join(images.select("image_id", side.alias("image")), on="image_id")
        .group_by("clip", "image")
        .agg(pl.len().alias("n"), pl.col("emotional_similarity").mean().alias("E"))
        .sort("clip", "image")
    )
    return {
        "sources": sources,
        "pairs": pairs.rows(named=True) if predicted else [],
        "head": _head(head.row(0, named=True)) if head.height else None,
        "few": few_images(head["images"][0]) if head.height else None,
    }


def _told_apart(derived: pl.Expr) -> pl.Expr:
    """`predicted`, `derived` where only the label comes from a program, by the ratings, or `given`."""
    return (
        pl.when(is_by_program())
        .then(pl.lit(PREDICTED))
        .when(pl.col("label_source") == PREDICTED)
        .then(derived)
        .otherwise(pl.lit("given"))
    )


def predicted_warning(music_clips: pl.DataFrame, images: pl.DataFrame) -> tuple[str, str] | None:
    """The warning at the top of the report, or None where nothing was predicted."""
    predicted = _counts(music_clips, images, is_by_program())
    derived = _counts(music_clips, images, (pl.col("label_source") == PREDICTED) & ~is_by_program())
    sentences = []
    if predicted:
        sentences.append(f"The emotion of {predicted} was predicted by a program, not given by people.")
    if derived:
        sentences.append(f"The label of {derived} is the emotion nearest to their own ratings.")
    if not sentences:
        return None
    sentences.append("Figures that rest on valence, arousal or labels hold all kinds, unless they say given.")
    return "Predicted emotion", " ".join(sentences)


def _counts(music_clips: pl.DataFrame, images: pl.DataFrame, which: pl.Expr) -> str:
    """How many clips and images `which` holds for, in words; empty if there are none."""
    counts = [
        f"{found:,} of {frame.height:,} {name}"
        for name, frame in (("clips", music_clips), ("images", images))
        if (found := frame.filter(which.fill_null(False)).height)
    ]
    return " and ".join(counts)


def _head(row: Mapping[str, object]) -> dict[str, object]:
    found: dict[float, dict[str, float]] = {}
    for line in row["calibration"]:  # type: ignore[attr-defined]
        found.setdefault(line["nominal"], {})[line["axis"]] = line["observed"]
    return {
        **row,
        "calibration": [{"nominal": nominal, **observed} for nominal, observed in sorted(found.items())],
    }
