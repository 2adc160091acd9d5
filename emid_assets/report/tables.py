"""What the evaluation report shows, as frames.

Belongs here: rejections, points of the valence-arousal plane, the rows of the `evaluation_report` table, and
which clips the gallery shows. Drawing is `figures`, the page is `page`; measuring is `evaluation`.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import polars as pl

from emid_assets.affect.emotions import IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.evaluation.pair_statistics import figure_rows
from emid_assets.media.lake_tables import LakeTables
from emid_assets.media.va_plane import Plane
from emid_assets.release.published_pairs import Agreement
from emid_assets.store.schemas import EVALUATION_REPORT

SECTION_OF_SWEEP = "sweep"

RANKING_METRICS = (
    "precision_at_10",
    "recall_at_10",
    "map_at_10",
    "ndcg_at_10",
    "mrr_at_10",
    "hit_rate_at_10",
)
_SYSTEM_ORDER = ("semantic", "structured", "random", "oracle", "ceiling")
"""Baselines and the bound come after the networks."""


def report_rows(tables: LakeTables) -> pl.DataFrame:
    """Every figure of the report, as the frame EVALUATION_REPORT: what the tables of the evaluation hold."""
    agreement = Agreement.of_frame(tables.published_agreement)
    retrieval = tables.retrieval_metrics.select(list(EVALUATION_REPORT.columns))
    parts = [tables.pair_statistics, retrieval, sweep_rows(tables.alpha_sweep)]
    if agreement is not None:
        parts.append(agreement.rows())
    return pl.concat(parts)


def sweep_rows(sweep: pl.DataFrame) -> pl.DataFrame:
    """EVALUATION_REPORT rows of a sweep (ALPHA_SWEEP): metrics as `alpha=0.6/m=3/K=100/coverage`."""
    values = ("same_as_emotional", "same_as_semantic", "label_precision", "coverage")
    rows = [
        (
            point["rescaling"],
            f"alpha={point['alpha']:g}/m={point['images_per_clip']}/K={point['candidates']}/{value}",
            point[value],
        )
        for point in sweep.iter_rows(named=True)
        for value in values
    ]
    return figure_rows(SECTION_OF_SWEEP, rows)


def rejections(rejected_media: pl.DataFrame) -> pl.DataFrame:
    """Rejected items by kind and reason, most frequent first: `kind`, `reason`, `items` (Int64)."""
    return (
        rejected_media.group_by("kind", "reason")
        .agg(pl.len().cast(pl.Int64).alias("items"))
        .sort(["items", "kind", "reason"], descending=[True, False, False])
    )


def va_plane(music_clips: pl.DataFrame, images: pl.DataFrame, plane: Plane) -> pl.DataFrame:
    """All labels and all items on the valence-arousal plane, as given and aligned (figure 3).

    Args:
        music_clips: frame MUSIC_CLIPS (valence and arousal on 1 to 9).
        images: frame IMAGES (0 to 1).
        plane: the alignments in use, from the scales of music and images to [-1, 1]².

    Returns:
        `kind` (music, image), `role` (label, item), `name` (a letter or a tag; null for items),
        `valence`, `arousal`, `aligned_valence`, `aligned_arousal` (Float64) and `items` (Int64):
        how many items the row stands for. Items at one place share a row. A label is placed
        at its category's published position and counts the items that have it, 0 included.
    """
    clips_of = dict(music_clips.group_by("emotion").len().iter_rows())
    images_of = dict(images.group_by("tag").len().iter_rows())
    label_rows = [
        ("music", music.letter, music.valence, music.arousal, clips_of.get(music.key, 0))
        for music in MUSIC_EMOTIONS
    ] + [
        ("image", image.key, image.valence, image.arousal, images_of.get(image.key, 0))
        for image in IMAGE_EMOTIONS
    ]
    labels = pl.DataFrame(
        label_rows,
        schema={
            "kind": pl.String,
            "name": pl.String,
            "valence": pl.Float64,
            "arousal": pl.Float64,
            "items": pl.Int64,
        },
        orient="row",
    ).with_columns(pl.lit("label").alias("role"))
    items = pl.concat(
        [
            frame.group_by("valence", "arousal")
            .agg(pl.len().cast(pl.Int64).alias("items"))
            .drop_nulls()
            .sort("valence", "arousal")
            .with_columns(
                pl.lit(kind).alias("kind"),
                pl.lit(None, pl.String).alias("name"),
                pl.lit("item").alias("role"),
            )
            for kind, frame in (("music", music_clips), ("image", images))
        ]
    )
    both = pl.concat([items.select(labels.columns), labels])
    va = both.select("valence", "arousal").to_numpy()
    is_music = both["kind"].to_numpy() == "music"
    aligned = np.empty_like(va)
    aligned[is_music] = plane.music.apply(va[is_music])
    aligned[~is_music] = plane.image.apply(va[~is_music])
    return both.with_columns(
        pl.Series("aligned_valence", aligned[:, 0]), pl.Series("aligned_arousal", aligned[:, 1])
    ).select("kind", "role", "name", "valence", "arousal", "aligned_valence", "aligned_arousal", "items")


def metric_table(metrics: pl.DataFrame, section: str) -> pl.DataFrame:
    """One section of EVALUATION_REPORT rows, a row for each metric and a column for each system.

    Returns:
        `metric`, `better` (`higher`, or `lower` for distances), then the systems as Float64:
        networks by name, then semantic, structured, random, oracle, ceiling. Null where not measured.

    Raises:
        ValueError: a system has a metric of the section twice.
    """
    rows = metrics.filter(pl.col("section") == section)
    twice = rows.filter(rows.select("system", "metric").is_duplicated())
    if twice.height:
        system, metric = twice.select("system", "metric").row(0)
        raise ValueError(f"metrics, section {section}: {system} has {metric} more than once")
    values = {
        (system, metric): value for system, metric, value in rows.select("system", "metric", "value").rows()
    }
    systems = sorted({system for system, _ in values}, key=_order(_SYSTEM_ORDER, first=False))
    names = sorted({metric for _, metric in values}, key=_order(RANKING_METRICS, first=True))
    return pl.DataFrame(
        {
            "metric": names,
            "better": ["lower" if "distance" in name else "higher" for name in names],
            **{system: [values.get((system, name)) for name in names] for system in systems},
        },
        schema={"metric": pl.String, "better": pl.String, **dict.fromkeys(systems, pl.Float64)},
    )


def gallery_clips(
    music_clips: pl.DataFrame, fused_pairs: pl.DataFrame, per_emotion: int, limit: int
) -> pl.DataFrame:
    """The clips that the gallery shows, in order of preference.

    Within an emotion: recordings not yet shown before further clips of one, originals before
    expanded clips, then by the hash of the id, which favours no name and does not depend on
    other clips. Emotions take turns, so that a limit cuts off the last round and never an emotion.

    Returns:
        Rows of `music_clips`, at most `per_emotion` of an emotion and `limit` in all; only clips
        that have pairs.
    """
    paired = music_clips.join(fused_pairs.select("clip_id").unique(), on="clip_id", how="semi")
    digests = [hashlib.sha256(clip_id.encode()).hexdigest() for clip_id in paired["clip_id"]]
    return (
        paired.with_columns(pl.Series("digest", digests, dtype=pl.String))
        .sort(pl.col("is_original_clip").not_(), "digest")
        .with_columns(pl.int_range(pl.len()).over("emotion", "source_id").alias("of_source"))
        .sort("of_source", maintain_order=True)
        .with_columns(pl.int_range(pl.len()).over("emotion").alias("turn"))
        .filter(pl.col("turn") < per_emotion)
        .sort("turn", "genre", maintain_order=True)
        .head(limit)
        .select(music_clips.columns)
    )


def _order(known: tuple[str, ...], *, first: bool) -> Callable[[str], tuple[bool, int, str]]:
    """A sort key: the known names in their order, all others by name before or after them."""

    def key(name: str) -> tuple[bool, int, str]:
        return (name in known) != first, known.index(name) if name in known else 0, name

    return key
