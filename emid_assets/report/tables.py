"""What the evaluation report counts and compares, as frames.

Belongs here: the pairs that each term alone would choose, counts by emotion, overlaps, points of
the valence-arousal plane, and the rows of the `evaluation_report` table. Drawing is `figures`,
the page is `page`; choosing the pairs themselves is `matching`, ranking metrics are `adapters`.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import polars as pl

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, IMAGE_EMOTIONS, MUSIC_EMOTIONS
from emid_assets.affect.valence_arousal import VaAlignment
from emid_assets.store.schemas import EVALUATION_REPORT

SECTION_OF_COUNTS = "counts"
SECTION_OF_PAIRS = "pairs_by_emotion"
SECTION_OF_OVERLAP = "overlap"
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
"""Baselines and the bound stand after the networks."""


def semantic_pairs(similarity_matrix: pl.DataFrame, m: int) -> pl.DataFrame:
    """The pairs of α = 1: the m candidates of each clip with the largest S.

    Args:
        similarity_matrix: frame SIMILARITY_MATRIX.
        m: images per clip; a clip with fewer candidates keeps them all.

    Returns:
        Columns `clip_id`, `image_id`, `rank` (from 1), by clip id and rank; equal S by image id.
    """
    return _best(similarity_matrix, ["score"], m)


def emotional_pairs(similarity_matrix: pl.DataFrame, va_distances: pl.DataFrame, m: int) -> pl.DataFrame:
    """The pairs of α = 0: the m candidates of each clip with the largest E.

    Images of one tag often share one E; equal E goes by higher S, then by image id, as in the
    fused choice.

    Args:
        similarity_matrix: frame SIMILARITY_MATRIX.
        va_distances: frame VA_DISTANCES with a row for every candidate.
        m: images per clip.

    Returns:
        Columns `clip_id`, `image_id`, `rank` (from 1), by clip id and rank.

    Raises:
        ValueError: a candidate has no row in `va_distances`; names the first.
    """
    return _best(_candidates(similarity_matrix, va_distances), ["emotional_similarity", "score"], m)


def pairs_per_clip(fused_pairs: pl.DataFrame) -> int:
    """m, read off the pairs: the largest number of pairs of a clip; 0 where there are none.

    Clips have fewer only where they have fewer candidates.
    """
    return int(fused_pairs.group_by("clip_id").len()["len"].max() or 0)  # type: ignore[arg-type]


def pair_counts(pairs: pl.DataFrame, music_clips: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """How many pairs join each music category with each image tag (figure 5 of the paper).

    Args:
        pairs: columns `clip_id`, `image_id`.
        music_clips: frame MUSIC_CLIPS.
        images: frame IMAGES.

    Returns:
        13 rows by letter: `emotion`, `genre`, then one Int64 column per tag; 0 where there is none.
    """
    joined = pairs.join(music_clips.select("clip_id", "emotion"), on="clip_id").join(
        images.select("image_id", "tag"), on="image_id"
    )
    found = {(row[0], row[1]): row[2] for row in joined.group_by("emotion", "tag").len().iter_rows()}
    return pl.DataFrame(
        [
            {
                "emotion": music.key,
                "genre": music.letter,
                **{tag: found.get((music.key, tag), 0) for tag in IMAGE_EMOTION_KEYS},
            }
            for music in MUSIC_EMOTIONS
        ],
        schema={"emotion": pl.String, "genre": pl.String, **dict.fromkeys(IMAGE_EMOTION_KEYS, pl.Int64)},
    )


def overlaps(
    fused_pairs: pl.DataFrame, similarity_matrix: pl.DataFrame, va_distances: pl.DataFrame
) -> pl.DataFrame:
    """How much of the chosen pairs each term alone would have chosen.

    Each clip is compared at its own number of pairs, so that a clip with few candidates counts
    like any other.

    Args:
        fused_pairs: frame FUSED_PAIRS.
        similarity_matrix: frame SIMILARITY_MATRIX.
        va_distances: frame VA_DISTANCES with a row for every candidate.

    Returns:
        EVALUATION_REPORT rows of section `overlap`; none where there are no pairs. System `pairs`:
        shares in [0, 1] of the chosen pairs that are picks of `both` terms, of
        `only_semantic`, of `only_emotional` and of `neither`. Systems `semantic` and `emotional`:
        `shared_with_pairs` and `shared_with_each_other`. All three: `mean_emotional_similarity`
        and `mean_semantic_rank` (1 is the candidate with the largest S) of their picks.
    """
    if fused_pairs.is_empty():
        return EVALUATION_REPORT.empty()
    wanted = fused_pairs.group_by("clip_id").len("wanted")
    most = pairs_per_clip(fused_pairs)
    candidates = _candidates(similarity_matrix, va_distances)

    def picks(frame: pl.DataFrame, name: str) -> pl.DataFrame:
        kept = frame.join(wanted, on="clip_id").filter(pl.col("rank") <= pl.col("wanted"))
        return kept.select("clip_id", "image_id", pl.lit(True).alias(name))

    marked = candidates.select("clip_id", "image_id", "emotional_similarity", "semantic_rank")
    for name, frame in (
        ("pairs", fused_pairs),
        ("semantic", _best(candidates, ["score"], most)),
        ("emotional", _best(candidates, ["emotional_similarity", "score"], most)),
    ):
        marked = marked.join(picks(frame, name), on=["clip_id", "image_id"], how="left")
    # Sorted, so that the means below add up in one order whatever order the joins gave.
    marked = marked.with_columns(pl.col("pairs", "semantic", "emotional").fill_null(False)).sort(
        "clip_id", "image_id"
    )

    chosen = marked.filter("pairs")
    semantic, emotional = pl.col("semantic"), pl.col("emotional")
    rows: list[tuple[str, str, float]] = [
        ("pairs", name, _share(chosen, condition))
        for name, condition in (
            ("both", semantic & emotional),
            ("only_semantic", semantic & ~emotional),
            ("only_emotional", ~semantic & emotional),
            ("neither", ~semantic & ~emotional),
        )
    ]
    for name, other in (("semantic", emotional), ("emotional", semantic)):
        rows.append((name, "shared_with_pairs", _share(chosen, pl.col(name))))
        rows.append((name, "shared_with_each_other", _share(marked.filter(name), other)))
    for name in ("pairs", "semantic", "emotional"):
        own = marked.filter(name)
        rows.append((name, "mean_emotional_similarity", _mean(own, "emotional_similarity")))
        rows.append((name, "mean_semantic_rank", _mean(own, "semantic_rank")))
    return _rows(SECTION_OF_OVERLAP, rows)


def counts(
    music_clips: pl.DataFrame, images: pl.DataFrame, rejected_media: pl.DataFrame, fused_pairs: pl.DataFrame
) -> pl.DataFrame:
    """Sizes, as EVALUATION_REPORT rows of section `counts`.

    Systems `music_clips`, `original_clips` (before expansion) and `images` have the metric `all` and
    one for each emotion; `pairs` has `all`; `rejected` has `all` and one for each reason.
    """
    by_emotion = dict(music_clips.group_by("emotion").len().iter_rows())
    originals = music_clips.filter("is_original_clip")
    before = dict(originals.group_by("emotion").len().iter_rows())
    by_tag = dict(images.group_by("tag").len().iter_rows())
    by_reason = rejected_media.group_by("reason").len().sort("reason")
    rows: list[tuple[str, str, float]] = [
        ("music_clips", "all", music_clips.height),
        ("original_clips", "all", originals.height),
        *(("original_clips", emotion.key, before.get(emotion.key, 0)) for emotion in MUSIC_EMOTIONS),
        *(("music_clips", emotion.key, by_emotion.get(emotion.key, 0)) for emotion in MUSIC_EMOTIONS),
        ("images", "all", images.height),
        *(("images", tag, by_tag.get(tag, 0)) for tag in IMAGE_EMOTION_KEYS),
        ("pairs", "all", fused_pairs.height),
        ("rejected", "all", rejected_media.height),
        *(("rejected", reason, number) for reason, number in by_reason.iter_rows()),
    ]
    return _rows(SECTION_OF_COUNTS, rows)


def report_rows(
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    rejected_media: pl.DataFrame,
    similarity_matrix: pl.DataFrame,
    va_distances: pl.DataFrame,
    fused_pairs: pl.DataFrame,
    metrics: pl.DataFrame,
) -> pl.DataFrame:
    """Every figure of the report: the frame EVALUATION_REPORT.

    Sections `counts`, `pairs_by_emotion` (systems `fused` and `semantic`, metric `sad/awe`),
    `overlap`, then `metrics` as they are given.
    """
    by_emotion: list[tuple[str, str, float]] = []
    for system, pairs in (
        ("fused", fused_pairs),
        ("semantic", semantic_pairs(similarity_matrix, pairs_per_clip(fused_pairs))),
    ):
        for row in pair_counts(pairs, music_clips, images).iter_rows(named=True):
            by_emotion += [(system, f"{row['emotion']}/{tag}", row[tag]) for tag in IMAGE_EMOTION_KEYS]
    return pl.concat(
        [
            counts(music_clips, images, rejected_media, fused_pairs),
            _rows(SECTION_OF_PAIRS, by_emotion),
            overlaps(fused_pairs, similarity_matrix, va_distances),
            EVALUATION_REPORT.check(metrics),
        ]
    )


def sweep_rows(sweep: pl.DataFrame) -> pl.DataFrame:
    """EVALUATION_REPORT rows of a sweep (SWEEP_COLUMNS): metrics as `alpha=0.6/m=3/K=100/coverage`."""
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
    return _rows(SECTION_OF_SWEEP, rows)


def rejections(rejected_media: pl.DataFrame) -> pl.DataFrame:
    """Rejected items by kind and reason, most frequent first: `kind`, `reason`, `items` (Int64)."""
    return (
        rejected_media.group_by("kind", "reason")
        .agg(pl.len().cast(pl.Int64).alias("items"))
        .sort(["items", "kind", "reason"], descending=[True, False, False])
    )


def va_plane(
    music_clips: pl.DataFrame,
    images: pl.DataFrame,
    music_alignment: VaAlignment,
    image_alignment: VaAlignment,
) -> pl.DataFrame:
    """All labels and all items on the valence-arousal plane, as given and aligned (figure 3).

    Args:
        music_clips: frame MUSIC_CLIPS (valence and arousal on 1 to 9).
        images: frame IMAGES (0 to 1).
        music_alignment: the alignment in use, from the music scale to [-1, 1]².
        image_alignment: the same for images.

    Returns:
        `kind` (music, image), `role` (label, item), `name` (a letter or a tag; null for items),
        `valence`, `arousal`, `aligned_valence`, `aligned_arousal` (Float64) and `items` (Int64):
        how many items the row stands for. Items at one place share a row. A label stands at its
        category's published place and counts the items that have it, 0 included.
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
    aligned[is_music] = music_alignment.apply(va[is_music])
    aligned[~is_music] = image_alignment.apply(va[~is_music])
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
    """The clips that the gallery shows, the most wanted first.

    Within an emotion: recordings not yet shown before further clips of one, originals before
    expanded clips, then by the hash of the id, which favours no name and changes with no other
    clip. Emotions take turns, so that a limit cuts the last turn and never an emotion.

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


def _candidates(similarity_matrix: pl.DataFrame, va_distances: pl.DataFrame) -> pl.DataFrame:
    joined = similarity_matrix.select(
        "clip_id", "image_id", "score", pl.col("rank").alias("semantic_rank")
    ).join(
        va_distances.select("clip_id", "image_id", "emotional_similarity"),
        on=["clip_id", "image_id"],
        how="left",
    )
    missing = joined.filter(pl.col("emotional_similarity").is_null())
    if missing.height:
        clip_id, image_id = missing.select("clip_id", "image_id").row(0)
        raise ValueError(
            f"va_distances has no row for {missing.height} of {joined.height} candidates, such as clip "
            f"{clip_id} with image {image_id}: build va_distances again from this similarity_matrix"
        )
    return joined


def _best(candidates: pl.DataFrame, by: list[str], m: int) -> pl.DataFrame:
    return (
        candidates.sort(["clip_id", *by, "image_id"], descending=[False, *[True] * len(by), False])
        .with_columns((pl.int_range(pl.len(), dtype=pl.Int32).over("clip_id") + 1).alias("rank"))
        .filter(pl.col("rank") <= m)
        .select("clip_id", "image_id", "rank")
    )


def _share(frame: pl.DataFrame, condition: pl.Expr) -> float:
    return frame.filter(condition).height / frame.height


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].to_numpy().astype(np.float64).mean())


def _rows(section: str, rows: list[tuple[str, str, float]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "section": [section] * len(rows),
            "system": [system for system, _, _ in rows],
            "metric": [metric for _, metric, _ in rows],
            "value": [float(value) for _, _, value in rows],
        },
        schema=EVALUATION_REPORT.empty().schema,
    )


def _order(known: tuple[str, ...], *, first: bool) -> Callable[[str], tuple[bool, int, str]]:
    """A sort key: the known names in their order, all others by name before or after them."""

    def key(name: str) -> tuple[bool, int, str]:
        return (name in known) != first, known.index(name) if name in known else 0, name

    return key
