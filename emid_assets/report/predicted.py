"""The report's section on where emotion comes from, and the warning about predictions at the top.

Belongs here: counts of measured, derived and predicted, the head's cross-validation, and the pairs split by
where the valence and arousal of their two sides come from. The markup is `predicted.html.j2` beside it.
"""

from collections.abc import Mapping

import polars as pl

from emid_assets.media.va_sources import is_by_program, meaning_of, va_origin
from emid_assets.media.with_predictions import PREDICTED
from emid_assets.prediction.image_head import few_images

NEAREST = "derived from V and A"


def is_predicted() -> pl.Expr:
    """Whether anything about a clip's or an image's emotion was predicted: its label, or its VA."""
    return ((pl.col("label_source") == PREDICTED) | is_by_program()).fill_null(False)


def predicted_clips(music_clips: pl.DataFrame) -> frozenset[str]:
    """Ids of the clips (MUSIC_CLIPS) whose emotion was predicted."""
    return frozenset(music_clips.filter(is_predicted())["clip_id"])


def predicted_section(
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    head: pl.DataFrame,
    music_head: pl.DataFrame,
) -> dict[str, object]:
    """What the section shows.

    Args:
        music_clips: frame MUSIC_CLIPS.
        images: frame IMAGES.
        fused_pairs: frame FUSED_PAIRS.
        head: frame IMAGE_EMOTION_HEAD, at most one row.
        music_head: frame MUSIC_EMOTION_HEAD, at most one row.

    Returns:
        `predicted_here`: whether this program predicted any emotion; `sources`: rows of kind, label (given,
        or derived from valence and arousal), source of valence and arousal, items, and the mean deviations
        told; `pairs`: rows of clip, image (measured, derived or predicted), pairs and mean E; `head`: its
        row with `calibration` as rows of nominal, valence, arousal, or None; `music_head`: likewise; `few`: a
        doubt about a head on few images, or None.
    """
    sources = []
    for kind, frame in (("music", music_clips), ("images", images)):
        grouped = (
            frame.with_columns(
                label=pl.when(pl.col("label_source") == PREDICTED)
                .then(pl.lit(NEAREST))
                .otherwise(pl.lit("given"))
            )
            .group_by("label", "va_source")
            .agg(pl.len().alias("n"), pl.col("valence_sd").mean(), pl.col("arousal_sd").mean())
            .sort("label", "va_source")
        )
        sources += [
            {"kind": kind, **row, "meaning": meaning_of(row["va_source"])}
            for row in grouped.iter_rows(named=True)
        ]
    pairs = (
        fused_pairs.join(music_clips.select("clip_id", clip=va_origin()), on="clip_id")
        .join(images.select("image_id", image=va_origin()), on="image_id")
        .group_by("clip", "image")
        .agg(pl.len().alias("n"), pl.col("emotional_similarity").mean().alias("E"))
        .sort("clip", "image")
    )
    return {
        "predicted_here": any(row["label"] == NEAREST or row["va_source"] == PREDICTED for row in sources),
        "sources": sources,
        "pairs": pairs.rows(named=True),
        "head": _head(head.row(0, named=True)) if head.height else None,
        "music_head": _head(music_head.row(0, named=True)) if music_head.height else None,
        "few": few_images(head["images"][0]) if head.height else None,
    }


def predicted_warning(music_clips: pl.DataFrame, images: pl.DataFrame) -> tuple[str, str] | None:
    """The warning at the top of the report, or None where nothing was predicted."""
    predicted = _counts(music_clips, images, is_by_program())
    nearest = _counts(music_clips, images, pl.col("label_source") == PREDICTED)
    sentences = []
    if predicted:
        sentences.append(f"Valence and arousal of {predicted} were predicted by a program, not measured.")
    if nearest:
        sentences.append(f"The label of {nearest} is an emotion near their valence and arousal.")
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
