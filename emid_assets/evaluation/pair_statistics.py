"""What the pairs of a build are made of: sizes, pairs by emotion, and what S or E alone would have chosen.

Belongs here: figures that are counted or compared without a ranking. Rankings are `evaluate`.
"""

from collections.abc import Callable

import numpy as np
import polars as pl

from emid_assets.affect.emotions import IMAGE_EMOTION_KEYS, MUSIC_EMOTIONS
from emid_assets.matching.frames import candidate_rows
from emid_assets.media.lake_tables import LakeTables
from emid_assets.store.schemas import EVALUATION_REPORT

SECTION_OF_COUNTS = "counts"
SECTION_OF_PAIRS = "pairs_by_emotion"
SECTION_OF_OVERLAP = "overlap"
SECTION_OF_USE = "image_use"


def pair_statistics(tables: LakeTables) -> pl.DataFrame:
    """The frame PAIR_STATISTICS of a lake.

    Sections `counts`, `pairs_by_emotion` (metric `sad/awe`) and `image_use` (see `image_use`), both of the
    systems `fused` and `semantic`, and `overlap`.
    """
    pairs = tables.fused_pairs
    by_emotion: list[tuple[str, str, float]] = []
    use: list[tuple[str, str, float]] = []
    for system, chosen in (
        ("fused", pairs),
        ("semantic", semantic_pairs(tables.similarity_matrix, pairs_per_clip(pairs))),
    ):
        if chosen.height:
            use += [(system, *figure) for figure in image_use(chosen, tables.images).items()]
        for row in pair_counts(chosen, tables.music_clips, tables.images).iter_rows(named=True):
            by_emotion += [(system, f"{row['emotion']}/{tag}", row[tag]) for tag in IMAGE_EMOTION_KEYS]
    return pl.concat(
        [
            counts(tables.music_clips, tables.images, tables.rejected_media, pairs),
            figure_rows(SECTION_OF_PAIRS, by_emotion),
            figure_rows(SECTION_OF_USE, use),
            overlaps(pairs, tables.similarity_matrix, tables.va_distances),
        ]
    )


def counts_by_emotion(statistics: pl.DataFrame, system: str) -> pl.DataFrame:
    """The pairs of one system as `pair_counts` gives them, out of PAIR_STATISTICS."""
    of_system = statistics.filter(section=SECTION_OF_PAIRS, system=system)
    found = dict(of_system.select("metric", "value").iter_rows())
    return _counts_frame(lambda emotion, tag: int(found.get(f"{emotion}/{tag}", 0)))


def semantic_pairs(similarity_matrix: pl.DataFrame, m: int) -> pl.DataFrame:
    """The pairs of α = 1: the m candidates of each clip with the largest S.

    Args:
        similarity_matrix: frame SIMILARITY_MATRIX.
        m: images per clip; a clip with fewer candidates keeps them all.

    Returns:
        Columns `clip_id`, `image_id`, `rank` (from 1), by clip id and rank.
    """
    return (
        similarity_matrix.filter(pl.col("rank") <= m)
        .select("clip_id", "image_id", "rank")
        .sort("clip_id", "rank")
    )


def pairs_per_clip(fused_pairs: pl.DataFrame) -> int:
    """m, read off the pairs: the largest number of pairs of a clip; 0 where there are none.

    Clips have fewer where they have fewer candidates, or where the images' use is limited.
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
    return _counts_frame(lambda emotion, tag: found.get((emotion, tag), 0))


def image_use(pairs: pl.DataFrame, images: pl.DataFrame) -> dict[str, float]:
    """How evenly the pairs use the images. An image that many clips are paired with is called a hub.

    Args:
        pairs: columns `clip_id`, `image_id`; at least one row.
        images: column `image_id`; those that no pair has count too.

    Returns:
        `used`, the number of images that are in a pair, and `coverage`, their share; `most_used`, the number
        of pairs of the image in the most; `gini`, from 0 (every image is in equally many) to 1; `skewness`
        of N_k, the number of pairs of each image: far above 0 where there are hubs (M. Radovanović,
        A. Nanopoulos, M. Ivanović, JMLR 11, 2010), 0 if all are equal.
    """
    uses = pairs.group_by("image_id").len()
    counted = images.select("image_id").join(uses, on="image_id", how="left")
    N = np.sort(counted["len"].fill_null(0).to_numpy().astype(np.float64))
    from_mean = N - N.mean()
    spread = from_mean.std()
    place = np.arange(1, N.size + 1)
    return {
        "used": float(np.count_nonzero(N)),
        "coverage": float(np.count_nonzero(N) / N.size),
        "most_used": float(N[-1]),
        "gini": float(((2 * place - N.size - 1) * N).sum() / (N.size * N.sum())),
        "skewness": float((from_mean**3).mean() / spread**3) if spread else 0.0,
    }


def _counts_frame(count: Callable[[str, str], int]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "emotion": music.key,
                "genre": music.letter,
                **{tag: count(music.key, tag) for tag in IMAGE_EMOTION_KEYS},
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
        and `mean_semantic_rank` (1 is the candidate with the largest S; K + 1 stands for one that is not
        among the K) of their picks.

    Raises:
        MatchingError: a candidate has no row in `va_distances`; names the first.
    """
    if fused_pairs.is_empty():
        return EVALUATION_REPORT.empty()
    wanted = fused_pairs.group_by("clip_id").len("wanted")
    most = pairs_per_clip(fused_pairs)
    candidates = candidate_rows(similarity_matrix, va_distances)
    beyond = int(similarity_matrix["rank"].to_numpy().max()) + 1
    candidates = candidates.with_columns(semantic_rank=pl.col("rank").fill_null(beyond))

    def picks(frame: pl.DataFrame, name: str) -> pl.DataFrame:
        kept = frame.join(wanted, on="clip_id").filter(pl.col("rank") <= pl.col("wanted"))
        return kept.select("clip_id", "image_id", pl.lit(True).alias(name))

    marked = candidates.select("clip_id", "image_id", "emotional_similarity", "semantic_rank")
    for name, frame in (
        ("pairs", fused_pairs),
        ("semantic", semantic_pairs(similarity_matrix, most)),
        ("emotional", _emotional_pairs(candidates, most)),
    ):
        marked = marked.join(picks(frame, name), on=["clip_id", "image_id"], how="left")
    # Sorted, so that the means below sum in the same order, whatever order the joins gave.
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
    return figure_rows(SECTION_OF_OVERLAP, rows)


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
    return figure_rows(SECTION_OF_COUNTS, rows)


def _emotional_pairs(candidates: pl.DataFrame, m: int) -> pl.DataFrame:
    """The pairs of α = 0: T is E, and of equal E the better semantic rank wins, as everywhere."""
    order = ["clip_id", "emotional_similarity", "semantic_rank"]
    return (
        candidates.sort(order, descending=[False, True, False], maintain_order=True)
        .with_columns((pl.int_range(pl.len(), dtype=pl.Int32).over("clip_id") + 1).alias("rank"))
        .filter(pl.col("rank") <= m)
        .select("clip_id", "image_id", "rank")
    )


def _share(frame: pl.DataFrame, condition: pl.Expr) -> float:
    return frame.filter(condition).height / frame.height


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].to_numpy().astype(np.float64).mean())


def figure_rows(section: str, rows: list[tuple[str, str, float]]) -> pl.DataFrame:
    """Figures of one section as system, metric and value, in the columns of EVALUATION_REPORT."""
    return pl.DataFrame(
        {
            "section": [section] * len(rows),
            "system": [system for system, _, _ in rows],
            "metric": [metric for _, metric, _ in rows],
            "value": [float(value) for _, _, value in rows],
        },
        schema=EVALUATION_REPORT.empty().schema,
    )
